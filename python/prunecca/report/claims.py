"""The paper's claims (Ansuini et al. 2020, section 5), each tested on the tables of a study.

Every claim is put as a statistic and a range: "Kendall's tau of similarity with level is below 0". The statistic is taken
from medians over replicates and has a 95 % bootstrap interval over replicates (see ``statistics``). The claim

- **holds** when the whole interval lies inside the range;
- **does not hold** when the whole interval lies outside it;
- has **not enough data** when the interval crosses the edge of the range, when fewer than ``LEAST`` replicates have finished,
  or when the levels, layers or problems that the statistic needs are missing. ``reason`` says which.

What the paper says of cifar2 and cifar4 is tested on problems of up to 4 classes, what it says of cifar6, 8 and 10 on those of more.
"""

from __future__ import annotations

import dataclasses
import functools
import math
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
        value: the statistic of the medians; NaN when it could not be computed.
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
        """What the paper says, in one sentence."""
        return STATEMENTS[self.claim]

    @property
    def has_interval(self) -> bool:
        """Whether there were enough replicates for an interval."""
        return not math.isnan(self.low)


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
    subjects: Sequence[Subject],
    *,
    metric: str = "svcca",
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
) -> list[Claim]:
    """Every claim on every problem it is about, in the order of the claims.

    Args:
        tables: with the tables ``levels`` and ``similarity`` of a study; either may be empty.
        subjects: all problems that were asked for.
        metric: the similarity the claims are tested with; the paper's is svcca.
        margin: the loss of accuracy, in [0, 1], that still counts as comparable.
        resamples: of the bootstrap.
    """
    levels, similarity = tables["levels"], tables["similarity"]
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
    claims += [below_control(similarity, name, metric, resamples=resamples) for name in problems]
    return claims


def comparable_accuracy(
    levels: pd.DataFrame, problem: str, *, margin: float = MARGIN, resamples: int = RESAMPLES
) -> Claim:
    """(a): the median accuracy at the worst level, minus that of the unpruned network, is above -margin."""
    question = _Question(
        "a", problem, "accuracy at the worst level minus that of the unpruned network", _Range(low=-margin)
    )
    found = accuracy_curves(levels, problem)
    if found is None:
        return question.missing("the unpruned network is not finished")
    curves, unpruned = found
    return question.judge(bootstrap(curves, lambda m: m[..., 0].min(axis=-1) - unpruned, resamples=resamples), curves)


def falls_with_iteration(
    similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES
) -> Claim:
    """(b): Kendall's tau of similarity with the level, averaged over layers, is below 0."""
    question = _Question("b", problem, "Kendall's τ of similarity with iteration, mean over layers", _Range(high=0))
    curves = similarity_curves(similarity, problem, metric)
    if curves is None or len(curves.levels) < 3:
        return question.missing("there are fewer than 3 levels to see a trend in", curves)
    return question.judge(bootstrap(curves, lambda m: kendall(m, -2).mean(axis=-1), resamples=resamples), curves)


def falls_with_depth(
    similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES
) -> Claim:
    """(c): Kendall's tau of similarity with depth, averaged over levels, is below 0; poolings are left aside, as in the paper."""
    question = _Question(
        "c", problem, "Kendall's τ of similarity with depth, poolings aside, mean over iterations", _Range(high=0)
    )
    curves = similarity_curves(similarity, problem, metric)
    layers = [] if curves is None else [i for i, kind in enumerate(curves.kinds) if kind != "pool"]
    if curves is None or len(layers) < 3:
        return question.missing("there are fewer than 3 layers to see a trend in", curves)
    curves = curves.keep(layers=layers)
    return question.judge(bootstrap(curves, lambda m: kendall(m, -1).mean(axis=-1), resamples=resamples), curves)


def valley(similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES) -> list[Claim]:
    """(d), in two parts: how deep the valley of similarity along the network is, and in which block its bottom lies.

    Depth: the least similarity of the convolutions after the first, below that of the first convolution or of the last
    fully connected layer, whichever is less; mean over levels; above 0. Position: the block (convolutions up to a
    pooling) of the least similar convolution, mean over levels, from 2.5 to 3.5.
    """
    depth = _Question("d", problem, "depth of the valley below its lower rim, mean over iterations", _Range(low=0))
    position = _Question("d", problem, "block of the least similar convolution, mean over iterations", _Range(2.5, 3.5))
    curves = similarity_curves(similarity, problem, metric)
    kinds = () if curves is None else curves.kinds
    convs = [i for i, kind in enumerate(kinds) if kind == "conv"]
    blocks = np.array([1.0 + sum(kind == "pool" for kind in kinds[:i]) for i in convs])
    if curves is None or len(convs) < 3 or "fc" not in kinds or blocks.max() < 3:
        why = "there are not three blocks of convolutions and a fully connected layer"
        return [depth.missing(why, curves), position.missing(why, curves)]
    last = max(i for i, kind in enumerate(kinds) if kind == "fc")

    def valley_depth(medians: Array) -> Array:
        rim = np.minimum(medians[..., convs[0]], medians[..., last])
        below: Array = (rim - medians[..., convs[1:]].min(axis=-1)).mean(axis=-1)
        return below

    def bottom(medians: Array) -> Array:
        block: Array = blocks[medians[..., convs].argmin(axis=-1)].mean(axis=-1)
        return block

    return [
        question.judge(bootstrap(curves, statistic, resamples=resamples), curves)
        for question, statistic in ((depth, valley_depth), (position, bottom))
    ]


def smaller_spread(
    similarity: pd.DataFrame,
    small: Sequence[str],
    large: Sequence[str],
    metric: str = "svcca",
    *,
    resamples: int = RESAMPLES,
) -> Claim:
    """(e): the range of similarity over the levels (mean over layers and problems), larger minus smaller problems, is below 0.

    All problems are compared over the same number of levels: that of the shortest study.
    """
    question = _Question(
        "e",
        f"{', '.join(large) or 'larger'} against {', '.join(small) or 'smaller'}",
        "spread over iterations, mean over layers: larger minus smaller problems",
        _Range(high=0),
    )
    groups = [[similarity_curves(similarity, name, metric) for name in names] for names in (small, large)]
    finished = [[curves for curves in group if curves is not None] for group in groups]
    every = [curves for group in finished for curves in group]
    if not all(finished):
        why = "a problem of up to 4 classes or one of more is missing"
        return question.missing(why, every[0] if every else None)
    count = min(len(curves.levels) for curves in every)
    if count < 3:
        return question.missing("there are fewer than 3 levels to see a spread in", every[0])
    fewest = min(every, key=lambda curves: curves.replicates)
    of_small, of_large = (
        functools.reduce(np.add, [spread(c.keep(levels=count).medians(resamples=resamples)) for c in group])
        / len(group)
        for group in finished
    )
    return question.judge(estimate(of_large - of_small), fewest)


def pooling_gain(similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES) -> Claim:
    """(f): the similarity of a pooling minus that of the convolution before it, mean over poolings and levels, is above 0."""
    question = _Question(
        "f", problem, "pooling minus the convolution before it, mean over poolings and iterations", _Range(low=0)
    )
    curves = similarity_curves(similarity, problem, metric)
    kinds = () if curves is None else curves.kinds
    poolings = [i for i in range(1, len(kinds)) if kinds[i] == "pool" and kinds[i - 1] == "conv"]
    if curves is None or not poolings:
        return question.missing("no pooling follows a convolution", curves)
    before = [i - 1 for i in poolings]

    def gain(medians: Array) -> Array:
        mean: Array = (medians[..., poolings] - medians[..., before]).mean(axis=(-2, -1))
        return mean

    return question.judge(bootstrap(curves, gain, resamples=resamples), curves)


def below_control(
    similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES
) -> Claim:
    """The control: similarity of networks retrained without pruning, minus that at the last level, mean over layers, is above 0.

    Not one of the paper's claims: it asks whether pruning changes the layers more than retraining does by itself.
    """
    question = _Question("control", problem, "control minus last level, mean over layers", _Range(low=0))
    pruned = similarity_curves(similarity, problem, metric)
    control = similarity_curves(similarity, problem, metric, control=True)
    if pruned is None or control is None:
        return question.missing("no network was retrained without pruning", pruned)
    shared = [layer for layer in pruned.layers if layer in control.layers]
    pruned = pruned.keep(layers=[pruned.layers.index(layer) for layer in shared])
    control = control.keep(layers=[control.layers.index(layer) for layer in shared])
    difference = control.medians(resamples=resamples, seed=1)[:, 0] - pruned.medians(resamples=resamples)[:, -1]
    found = question.judge(estimate(difference.mean(axis=-1)), pruned)
    if control.replicates < LEAST <= pruned.replicates:
        why = f"{control.replicates} of the {LEAST} controls a verdict needs"
        return dataclasses.replace(found, verdict=UNDECIDED, reason=why)
    return found


@dataclass(frozen=True)
class _Question:
    """A claim about a problem before it is judged."""

    claim: str
    problem: str
    statistic: str
    range: _Range

    def judge(self, found: Estimate, curves: Curves) -> Claim:
        low, high = self.range.low, self.range.high
        count = curves.replicates
        if count < LEAST:
            return self.result(found, count, UNDECIDED, f"{count} of the {LEAST} complete replicates a verdict needs")
        if found.low > low and found.high < high:
            return self.result(found, count, HOLDS, "the whole interval is in the expected range")
        if found.high <= low or found.low >= high:
            return self.result(found, count, FAILS, "the whole interval is outside the expected range")
        return self.result(found, count, UNDECIDED, "the interval crosses the edge of the expected range")

    def missing(self, why: str, curves: Curves | None = None) -> Claim:
        if curves is None:
            why = f"no replicate has finished a level, or {why}"
        return self.result(Estimate(math.nan), 0 if curves is None else curves.replicates, UNDECIDED, why)

    def result(self, found: Estimate, replicates: int, verdict: str, reason: str) -> Claim:
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
