"""The claims of a study: what the paper says, what follows from it, and whether it survives other measures."""

from .claim import FAILS, HOLDS, LEAST, STATEMENTS, UNDECIDED, Claim, Subject
from .followups import dimension_against_similarity, leaves_the_controls, pivot
from .judge import judge
from .paper import (
    MARGIN,
    below_control,
    comparable_accuracy,
    falls_with_depth,
    falls_with_iteration,
    pooling_gain,
    smaller_spread,
    valley,
)

__all__ = [
    "FAILS",
    "HOLDS",
    "LEAST",
    "MARGIN",
    "STATEMENTS",
    "UNDECIDED",
    "Claim",
    "Subject",
    "below_control",
    "comparable_accuracy",
    "dimension_against_similarity",
    "falls_with_depth",
    "falls_with_iteration",
    "judge",
    "leaves_the_controls",
    "pivot",
    "pooling_gain",
    "smaller_spread",
    "valley",
]
