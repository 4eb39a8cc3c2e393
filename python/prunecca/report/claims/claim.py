"""What a claim is: a statistic, the range in which it should lie, and the verdict.

A claim

- **holds** when the whole interval lies inside the range;
- **does not hold** when the whole interval lies outside it;
- has **not enough data** when the interval crosses the edge of the range, when fewer than ``LEAST`` replicates have finished,
  or when the levels, layers or problems that the statistic needs are missing. ``reason`` says which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..statistics import Curves, Estimate

HOLDS = "holds"
FAILS = "does not hold"
UNDECIDED = "not enough data"

LEAST = 3  # replicates (and controls) below which there is no verdict

STATEMENTS = {
    "a": "Accuracy stays comparable under pruning, up to the sparsity studied",
    "b": "In the smaller problems, similarity falls with the pruning iteration",
    "c": "In the smaller problems, similarity falls with depth",
    "d": "In the larger problems, similarity starts high, bottoms around the third block and rises to the fully connected layer",
    "e": "The spread between iterations is smaller in the larger problems than in the smaller ones",
    "f": "Poolings are slightly more similar than the convolution before them",
    "g": "Similarity is low where intrinsic dimension is high",
    "h": "The fully connected layer is a pivot: it is more similar than the last convolution before it",
    "control": "Pruned layers are less similar than layers retrained without pruning",
    "i": "The pruned layer can be told from one retrained without pruning: its replicates leave the range of the controls",
}
NOT_THE_PAPERS = ("control", "i")  # what the paper could not ask, for it had no controls


@dataclass(frozen=True)
class Subject:
    """A problem of the study, as the claims need to know it.

    Args:
        problem: its name.
        dataset: only problems of the same data set are compared with each other.
        classes: the number of classes of a network of the paper's family; None for any other network, of which the paper
            says nothing that depends on the size of the problem.
    """

    problem: str
    dataset: str
    classes: int | None


@dataclass(frozen=True)
class Claim:
    """A claim, tested on one problem (on several for claim e).

    Args:
        claim: its letter, a key of ``STATEMENTS``.
        problem: what it was tested on.
        statistic: what was computed, in words.
        expected: the range in which the claim says the statistic lies.
        value: the statistic of the medians; NaN when it could not be computed, infinite for what never happened.
        low, high: its interval; NaN when there is none.
        replicates: that are complete.
        verdict: ``HOLDS``, ``FAILS`` or ``UNDECIDED``.
        reason: why, in words.
    """

    claim: str
    problem: str
    statistic: str
    expected: str
    value: float
    low: float
    high: float
    replicates: int
    verdict: str
    reason: str

    @property
    def statement(self) -> str:
        """What is claimed, in one sentence."""
        return STATEMENTS[self.claim]

    @property
    def has_interval(self) -> bool:
        """Whether there were enough replicates for an interval."""
        return not math.isnan(self.low)


@dataclass(frozen=True)
class Range:
    """Where a statistic should lie, edges left out.

    Args:
        low, high: the edges.
        refuted: for a claim of "less than ``high``", where the opposite begins; what lies between is neither.
    """

    low: float = -math.inf
    high: float = math.inf
    refuted: float = -math.inf

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"< {self.high:.3g}"
        return f"> {self.low:.3g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Question:
    """A claim about a problem before it is judged."""

    claim: str
    problem: str
    statistic: str
    range: Range

    def judge(self, found: Estimate, curves: Curves) -> Claim:
        """The verdict that an estimate from these curves gives."""
        low, high = self.range.low, self.range.high
        count = curves.replicates
        if count < LEAST:
            return self.result(found, count, UNDECIDED, f"{count} of the {LEAST} complete replicates a verdict needs")
        if found.low > low and found.high < high:
            return self.result(found, count, HOLDS, "the whole interval is in the expected range")
        if found.high <= low or found.low >= max(high, self.range.refuted):
            return self.result(found, count, FAILS, "the whole interval is outside the expected range")
        return self.result(found, count, UNDECIDED, "the interval crosses the edge of the expected range")

    def missing(self, why: str, curves: Curves | None = None) -> Claim:
        """No verdict, because something is missing."""
        if curves is None:
            why = f"no replicate has finished a level, or {why}"
        return self.result(Estimate(math.nan), 0 if curves is None else curves.replicates, UNDECIDED, why)

    def result(self, found: Estimate, replicates: int, verdict: str, reason: str) -> Claim:
        """The claim with this verdict."""
        return Claim(
            self.claim,
            self.problem,
            self.statistic,
            str(self.range),
            found.value,
            found.low,
            found.high,
            replicates,
            verdict,
            reason,
        )
