"""The paper's claims (Ansuini et al. 2020, section 5), each tested on the tables of a study.

Every claim is put as a statistic and a range: "Kendall's tau of similarity with level is below 0". The statistic is taken
from medians over replicates and has a 95 % bootstrap interval over replicates (see ``statistics``).

What the paper says of cifar2 and cifar4 is tested on problems of up to 4 classes, what it says of cifar6, 8 and 10 on those of more.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..statistics import (
    RESAMPLES,
    Array,
    accuracy_curves,
    bootstrap,
    estimate,
    kendall,
    similarity_curves,
    spread,
)
from .claim import LEAST, UNDECIDED, Claim, Question, Range

MARGIN = 0.02  # of accuracy: what still counts as comparable


def comparable_accuracy(
    levels: pd.DataFrame, problem: str, *, margin: float = MARGIN, resamples: int = RESAMPLES
) -> Claim:
    """(a): the median accuracy at the worst level, minus that of the unpruned network, is above -margin."""
    question = Question(
        "a", problem, "accuracy at the worst level minus that of the unpruned network", Range(low=-margin)
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
    question = Question("b", problem, "Kendall's τ of similarity with iteration, mean over layers", Range(high=0))
    curves = similarity_curves(similarity, problem, metric)
    if curves is None or len(curves.levels) < 3:
        return question.missing("there are fewer than 3 levels to see a trend in", curves)
    return question.judge(bootstrap(curves, lambda m: kendall(m, -2).mean(axis=-1), resamples=resamples), curves)


def falls_with_depth(
    similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES
) -> Claim:
    """(c): Kendall's tau of similarity with depth, averaged over levels, is below 0; poolings are left aside, as in the paper."""
    question = Question(
        "c", problem, "Kendall's τ of similarity with depth, poolings aside, mean over iterations", Range(high=0)
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
    depth = Question("d", problem, "depth of the valley below its lower rim, mean over iterations", Range(low=0))
    position = Question("d", problem, "block of the least similar convolution, mean over iterations", Range(2.5, 3.5))
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
    question = Question(
        "e",
        f"{', '.join(large) or 'larger'} against {', '.join(small) or 'smaller'}",
        "spread over iterations, mean over layers: larger minus smaller problems",
        Range(high=0),
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
    question = Question(
        "f", problem, "pooling minus the convolution before it, mean over poolings and iterations", Range(low=0)
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
    question = Question("control", problem, "control minus last level, mean over layers", Range(low=0))
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
