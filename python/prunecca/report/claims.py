"""The paper's claims (Ansuini et al. 2020, section 5), each tested on the tables of a study.

    for finding in judge(tables):
        print(finding.claim, finding.problem, finding.value, finding.verdict)

Every claim is put as a statistic and a range: "Kendall's tau of similarity with level is below 0". The statistic is taken
from medians over replicates and has a 95 % bootstrap interval over replicates (see `estimates`). The claim

- **holds** when the whole interval lies inside the range;
- **does not hold** when the whole interval lies outside it;
- has **not enough data** when the interval crosses the edge of the range, when fewer than `LEAST` replicates have finished,
  or when the levels, layers or problems that the statistic needs are not there. `reason` says which.

What the paper says of cifar2 and cifar4 is tested on problems of up to 4 classes, what it says of cifar6, 8 and 10 on those of more.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .statistics import (
    RESAMPLES,
    Array,
    Curves,
    Estimate,
    accuracy_curves,
    bootstrap,
    estimate,
    kendall,
    similarity_curves,
    spread,
)

HOLDS = "holds"
FAILS = "does not hold"
UNDECIDED = "not enough data"

LEAST = 3  # replicates (and controls) below which there is no verdict
MARGIN = 0.02  # of accuracy: what still counts as comparable
SMALL = 4  # classes up to which a problem is one of the paper's smaller ones

STATEMENTS = {
    "a": "Accuracy stays comparable under pruning, up to the sparsity studied",
    "b": "In the smaller problems, similarity falls with the pruning iteration",
    "c": "In the smaller problems, similarity falls with depth",
    "d": "In the larger problems, similarity starts high, bottoms around the third block and rises to the fully connected layer",
    "e": "The spread between iterations is smaller in the larger problems than in the smaller ones",
    "f": "Poolings are slightly more similar than the convolution before them",
    "control": "Pruned layers are less similar than layers retrained without pruning",
}


@dataclass(frozen=True)
class Finding:
    """A claim, tested on one problem (on several for claim e).

    `expected` is the range in which the claim says the statistic lies; `low` and `high` are NaN without an interval.
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
        """What the paper says, in one sentence."""
        return STATEMENTS[self.claim]


@dataclass(frozen=True)
class _Range:
    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"< {self.high:g}"
        return f"> {self.low:g}" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


def judge(
    tables: Mapping[str, pd.DataFrame],
    *,
    metric: str = "svcca",
    margin: float = MARGIN,
    problems: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
) -> list[Finding]:
    """Every claim on every problem it is about, in the order of the claims.

    Args:
        tables: with the tables `levels` and `similarity` (see `tables`); either may be empty.
        metric: the similarity the claims are tested with; the paper's is svcca.
        margin: the loss of accuracy, in [0, 1], that still counts as comparable.
        problems: all that were asked for; None: those in the table `levels`.
        resamples: of the bootstrap.
    """
    levels, similarity = tables["levels"], tables["similarity"]
    if problems is None:
        problems = [] if levels.empty else [str(name) for name in levels["problem"].unique()]
    small = [name for name in problems if (_classes(name) or math.inf) <= SMALL]
    large = [name for name in problems if (_classes(name) or 0) > SMALL]
    findings = [comparable_accuracy(levels, name, margin=margin, resamples=resamples) for name in problems]
    findings += [falls_with_iteration(similarity, name, metric, resamples=resamples) for name in small]
    findings += [falls_with_depth(similarity, name, metric, resamples=resamples) for name in small]
    for name in large:
        findings += valley(similarity, name, metric, resamples=resamples)
    for family in dict.fromkeys(re.sub(r"\d+$", "", name) for name in [*small, *large]):
        own = [[name for name in group if name.startswith(family)] for group in (small, large)]
        findings.append(smaller_spread(similarity, own[0], own[1], metric, resamples=resamples))
    findings += [pooling_gain(similarity, name, metric, resamples=resamples) for name in problems]
    findings += [below_control(similarity, name, metric, resamples=resamples) for name in problems]
    return findings


def comparable_accuracy(
    levels: pd.DataFrame, problem: str, *, margin: float = MARGIN, resamples: int = RESAMPLES
) -> Finding:
    """(a): the median accuracy at the worst level, minus that of the unpruned network, is above -margin."""
    start = _Start("a", problem, "accuracy at the worst level minus that of the unpruned network", _Range(low=-margin))
    found = accuracy_curves(levels, problem)
    if found is None:
        return start.missing("the unpruned network is not finished")
    curves, unpruned = found
    return start.judge(bootstrap(curves, lambda m: m[..., 0].min(axis=-1) - unpruned, resamples=resamples), curves)


def falls_with_iteration(
    similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES
) -> Finding:
    """(b): Kendall's tau of similarity with the level, averaged over layers, is below 0."""
    start = _Start("b", problem, "Kendall's τ of similarity with iteration, mean over layers", _Range(high=0))
    curves = similarity_curves(similarity, problem, metric)
    if curves is None or len(curves.levels) < 3:
        return start.missing("there are fewer than 3 levels to see a trend in", curves)
    return start.judge(bootstrap(curves, lambda m: kendall(m, -2).mean(axis=-1), resamples=resamples), curves)


def falls_with_depth(
    similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES
) -> Finding:
    """(c): Kendall's tau of similarity with depth, averaged over levels, is below 0; poolings are left aside, as in the paper."""
    start = _Start(
        "c", problem, "Kendall's τ of similarity with depth, poolings aside, mean over iterations", _Range(high=0)
    )
    curves = similarity_curves(similarity, problem, metric)
    at = [] if curves is None else [i for i, kind in enumerate(curves.kinds) if kind != "pool"]
    if curves is None or len(at) < 3:
        return start.missing("there are fewer than 3 layers to see a trend in", curves)
    curves = curves.keep(layers=at)
    return start.judge(bootstrap(curves, lambda m: kendall(m, -1).mean(axis=-1), resamples=resamples), curves)


def valley(
    similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES
) -> list[Finding]:
    """(d), in two parts: how deep the valley of similarity along the network is, and in which block its bottom lies.

    Depth: the least similarity of the convolutions after the first, below that of the first convolution or of the last
    fully connected layer, whichever is less; mean over levels; above 0. Place: the block (convolutions up to a
    pooling) of the least similar convolution, mean over levels, from 2.5 to 3.5.
    """
    depth = _Start("d", problem, "depth of the valley below its lower rim, mean over iterations", _Range(low=0))
    place = _Start("d", problem, "block of the least similar convolution, mean over iterations", _Range(2.5, 3.5))
    curves = similarity_curves(similarity, problem, metric)
    kinds = () if curves is None else curves.kinds
    convs = [i for i, kind in enumerate(kinds) if kind == "conv"]
    blocks = np.array([1.0 + sum(kind == "pool" for kind in kinds[:i]) for i in convs])
    if curves is None or len(convs) < 3 or "fc" not in kinds or blocks.max() < 3:
        why = "there are not three blocks of convolutions and a fully connected layer"
        return [depth.missing(why, curves), place.missing(why, curves)]
    last = max(i for i, kind in enumerate(kinds) if kind == "fc")

    def valley_depth(medians: Array) -> Array:
        rim = np.minimum(medians[..., convs[0]], medians[..., last])
        below: Array = (rim - medians[..., convs[1:]].min(axis=-1)).mean(axis=-1)
        return below

    def bottom(medians: Array) -> Array:
        block: Array = blocks[medians[..., convs].argmin(axis=-1)].mean(axis=-1)
        return block

    return [
        start.judge(bootstrap(curves, statistic, resamples=resamples), curves)
        for start, statistic in ((depth, valley_depth), (place, bottom))
    ]


def smaller_spread(
    similarity: pd.DataFrame,
    small: Sequence[str],
    large: Sequence[str],
    metric: str = "svcca",
    *,
    resamples: int = RESAMPLES,
) -> Finding:
    """(e): the range of similarity over the levels (mean over layers and problems), larger minus smaller problems, is below 0.

    All problems are compared over the same number of levels: that of the shortest study.
    """
    start = _Start(
        "e",
        f"{', '.join(large) or 'larger'} against {', '.join(small) or 'smaller'}",
        "spread over iterations, mean over layers: larger minus smaller problems",
        _Range(high=0),
    )
    groups = [[similarity_curves(similarity, name, metric) for name in names] for names in (small, large)]
    there = [[curves for curves in group if curves is not None] for group in groups]
    if not all(there):
        there_at_all = next((curves for group in there for curves in group), None)
        return start.missing("a problem of up to 4 classes or one of more is missing", there_at_all)
    count = min(len(curves.levels) for group in there for curves in group)
    if count < 3:
        return start.missing("there are fewer than 3 levels to see a spread in", there[0][0])
    fewest = min((curves for group in there for curves in group), key=lambda curves: curves.replicates)
    of_small, of_large = (
        functools.reduce(np.add, [spread(c.keep(levels=count).medians(resamples=resamples)) for c in group])
        / len(group)
        for group in there
    )
    return start.judge(estimate(of_large - of_small), fewest)


def pooling_gain(
    similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES
) -> Finding:
    """(f): the similarity of a pooling minus that of the convolution before it, mean over poolings and levels, is above 0."""
    start = _Start(
        "f", problem, "pooling minus the convolution before it, mean over poolings and iterations", _Range(low=0)
    )
    curves = similarity_curves(similarity, problem, metric)
    kinds = () if curves is None else curves.kinds
    at = [i for i in range(1, len(kinds)) if kinds[i] == "pool" and kinds[i - 1] == "conv"]
    if curves is None or not at:
        return start.missing("no pooling follows a convolution", curves)
    before = [i - 1 for i in at]

    def gain(medians: Array) -> Array:
        mean: Array = (medians[..., at] - medians[..., before]).mean(axis=(-2, -1))
        return mean

    return start.judge(bootstrap(curves, gain, resamples=resamples), curves)


def below_control(
    similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES
) -> Finding:
    """The control: similarity of networks retrained without pruning, minus that at the last level, mean over layers, is above 0.

    Not one of the paper's claims: it asks whether pruning changes the layers more than retraining does by itself.
    """
    start = _Start("control", problem, "control minus last level, mean over layers", _Range(low=0))
    pruned = similarity_curves(similarity, problem, metric)
    control = similarity_curves(similarity, problem, metric, control=True)
    if pruned is None or control is None:
        return start.missing("no network was retrained without pruning", pruned)
    shared = [layer for layer in pruned.layers if layer in control.layers]
    pruned = pruned.keep(layers=[pruned.layers.index(layer) for layer in shared])
    control = control.keep(layers=[control.layers.index(layer) for layer in shared])
    difference = control.medians(resamples=resamples, seed=1)[:, 0] - pruned.medians(resamples=resamples)[:, -1]
    found = start.judge(estimate(difference.mean(axis=-1)), pruned)
    if control.replicates < LEAST <= pruned.replicates:
        why = f"{control.replicates} of the {LEAST} controls a verdict needs"
        return dataclasses.replace(found, verdict=UNDECIDED, reason=why)
    return found


@dataclass(frozen=True)
class _Start:
    """A claim about a problem, before anything is known."""

    claim: str
    problem: str
    statistic: str
    range: _Range

    def judge(self, found: Estimate, curves: Curves) -> Finding:
        low, high = self.range.low, self.range.high
        count = curves.replicates
        if count < LEAST:
            return self.result(found, count, UNDECIDED, f"{count} of the {LEAST} complete replicates a verdict needs")
        if found.low > low and found.high < high:
            return self.result(found, count, HOLDS, "the whole interval is in the expected range")
        if found.high <= low or found.low >= high:
            return self.result(found, count, FAILS, "the whole interval is outside the expected range")
        return self.result(found, count, UNDECIDED, "the interval crosses the edge of the expected range")

    def missing(self, why: str, curves: Curves | None = None) -> Finding:
        if curves is None:
            why = f"no replicate has finished a level, or {why}"
        return self.result(Estimate(math.nan), 0 if curves is None else curves.replicates, UNDECIDED, why)

    def result(self, found: Estimate, replicates: int, verdict: str, reason: str) -> Finding:
        return Finding(
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


def _classes(problem: str) -> int | None:
    match = re.fullmatch(r"(?:cifar|digits)(\d+)", problem)
    return int(match[1]) if match else None
