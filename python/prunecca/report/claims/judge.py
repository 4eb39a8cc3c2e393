"""Every claim on every problem it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ..statistics import RESAMPLES
from .claim import Claim, Subject
from .followups import dimension_against_similarity, leaves_the_controls, pivot
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

SMALL = 4  # classes up to which a problem is one of the paper's smaller ones


def judge(
    tables: Mapping[str, pd.DataFrame],
    subjects: Sequence[Subject],
    *,
    metric: str = "svcca",
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
) -> list[Claim]:
    """Every claim on every problem it is about, in the order of the claims.

    Args:
        tables: with the tables ``levels`` and ``similarity`` of a study, and ``dimension`` where dimensions were estimated; any
            may be empty.
        subjects: all problems that were asked for.
        metric: the similarity the claims are tested with; the paper's is svcca.
        margin: the loss of accuracy, in [0, 1], that still counts as comparable.
        resamples: of the bootstrap.
    """
    levels, similarity, dimension = tables["levels"], tables["similarity"], tables.get("dimension", pd.DataFrame())
    problems = [subject.problem for subject in subjects]
    sized = [(subject, subject.classes) for subject in subjects if subject.classes is not None]
    small = [subject for subject, classes in sized if classes <= SMALL]
    large = [subject for subject, classes in sized if classes > SMALL]
    claims = [comparable_accuracy(levels, name, margin=margin, resamples=resamples) for name in problems]
    claims += [falls_with_iteration(similarity, one.problem, metric, resamples=resamples) for one in small]
    claims += [falls_with_depth(similarity, one.problem, metric, resamples=resamples) for one in small]
    for subject in large:
        claims += valley(similarity, subject.problem, metric, resamples=resamples)
    for dataset in dict.fromkeys(subject.dataset for subject in [*small, *large]):
        few, many = ([one.problem for one in group if one.dataset == dataset] for group in (small, large))
        claims.append(smaller_spread(similarity, few, many, metric, resamples=resamples))
    claims += [pooling_gain(similarity, name, metric, resamples=resamples) for name in problems]
    claims += [dimension_against_similarity(similarity, dimension, p, metric, resamples=resamples) for p in problems]
    claims += [pivot(similarity, name, metric, resamples=resamples) for name in problems]
    claims += [below_control(similarity, name, metric, resamples=resamples) for name in problems]
    for name in problems:
        claims += leaves_the_controls(similarity, name, metric, resamples=resamples)
    return claims
