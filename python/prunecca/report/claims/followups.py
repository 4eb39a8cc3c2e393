"""What follows from the paper's claims: its hypothesis on intrinsic dimension (g), the pivot (h), and pruning against retraining (i).

(g) The paper asks whether similarity is low where intrinsic dimension is high. Kendall's tau between the two, over the
    layers of a level, must lie below what shuffled layers give; with few layers, even a perfect order may be chance.
(h) The paper takes the fully connected layer for a pivot that leads differing convolutions back to like representations. The
    head of a network in network has no such layer: there, its last 1x1 convolution is asked instead, which
    stands in the same place but keeps the positions, so that it tells of the head and not of a layer that sees the whole image.
(i) Networks retrained without pruning differ from the unpruned one too. A layer has left their range at the first level whose
    replicates all lie outside of it.
"""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..statistics import (
    CONFIDENCE,
    RESAMPLES,
    Array,
    Curves,
    Estimate,
    bootstrap,
    chance_of_kendall,
    dimension_beside_similarity,
    kendall_between,
    similarity_curves,
)
from .claim import FAILS, HOLDS, LEAST, UNDECIDED, Claim, Question, Range

_NIN = re.compile(r"nin\d+")  # the 1x1 convolutions of such a head, as ``models`` names them
_NAMED = 40  # characters of a layer that fit into a statistic


def dimension_against_similarity(
    similarity: pd.DataFrame,
    dimension: pd.DataFrame,
    problem: str,
    metric: str = "svcca",
    *,
    resamples: int = RESAMPLES,
) -> Claim:
    """(g): Kendall's tau between similarity and dimension over the layers, median over levels, is less than chance gives.

    Both are medians over replicates, of the same pruned networks. Levels share their network, so their median is held to the
    chance of a single one: the tau that shuffled layers fall to in more than 1 of 20 cases. From 0 on the claim
    does not hold; between the two, there is not enough data.

    Args:
        similarity, dimension: the tables of these names.
        problem: that is judged.
        metric: the similarity.
        resamples: of the bootstrap.
    """
    what = "Kendall's τ of similarity with intrinsic dimension over the layers, median over iterations"
    curves = dimension_beside_similarity(similarity, dimension, problem, metric)
    if curves is None:
        known = similarity_curves(similarity, problem, metric)
        question = Question("g", problem, what, Range(high=0))
        return question.missing("intrinsic dimensions were not estimated", known)
    count = len(curves.layers) // 2
    chance = chance_of_kendall(count)
    question = Question("g", problem, what, Range(high=chance, refuted=0))

    def correlation(medians: Array) -> Array:
        middle: Array = np.median(kendall_between(medians[..., :count], medians[..., count:]), axis=-1)
        return middle

    if count < 2:
        return question.missing("a single layer has both a similarity and a dimension", curves)
    found = bootstrap(curves, correlation, resamples=resamples)
    claim = question.judge(found, curves)
    if claim.verdict == UNDECIDED and curves.replicates >= LEAST:
        if chance == -1:
            why = f"{count} layers are too few: even a perfect order of them is chance in 1 of {math.factorial(count)} cases"
            return dataclasses.replace(claim, reason=why)
        if found.low >= chance:
            why = f"the whole interval is within what shuffling these {count} layers gives"
            return dataclasses.replace(claim, reason=why)
    return claim


def pivot(similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES) -> Claim:
    """(h): the last fully connected layer minus the last convolution before it, mean over levels, is above 0.

    With the head of a network in network: its last 1x1 convolution minus the last convolution before that head.
    """
    curves = similarity_curves(similarity, problem, metric)
    layers, kinds = ((), ()) if curves is None else (curves.layers, curves.kinds)
    heads = [i for i, layer in enumerate(layers) if _NIN.fullmatch(layer)]
    ends = [i for i, kind in enumerate(kinds) if kind == "fc"]
    end = max(ends or heads, default=-1)
    before = [i for i in range(max(end, 0)) if kinds[i] == "conv" and i not in heads]
    is_head = bool(heads and not ends)
    what = (
        "last 1x1 convolution of the head, which has no fully connected layer," if is_head else "fully connected layer"
    )
    question = Question(
        "h", problem, f"{what} minus the last convolution before it, mean over iterations", Range(low=0)
    )
    if curves is None or not before:
        missing = "convolution before the end" if end >= 0 else "fully connected layer"
        return question.missing(f"there is no {missing} to compare", curves)

    def gain(medians: Array) -> Array:
        mean: Array = (medians[..., end] - medians[..., before[-1]]).mean(axis=-1)
        return mean

    claim = question.judge(bootstrap(curves, gain, resamples=resamples), curves)
    return dataclasses.replace(claim, reason=f"{layers[end]} against {layers[before[-1]]}: {claim.reason}")


def leaves_the_controls(
    similarity: pd.DataFrame, problem: str, metric: str = "svcca", *, resamples: int = RESAMPLES
) -> list[Claim]:
    """(i): per layer, the first level at which every replicate lies outside the range of the controls; infinite for never.

    The interval is of resampled replicates; the controls stay as they are. A layer that is back among the controls later has
    not left them, nor has one whose replicates stand on both sides of them: then there is not enough data.
    """
    pruned = similarity_curves(similarity, problem, metric)
    control = similarity_curves(similarity, problem, metric, control=True)
    shared = [] if pruned is None or control is None else [name for name in pruned.layers if name in control.layers]
    if pruned is None or control is None or not shared:
        question = Question("i", problem, _first_level("every layer"), Range(low=0))
        return [question.missing("no network was retrained without pruning", pruned)]
    band = control.values[:, 0, [control.layers.index(name) for name in shared]]
    pruned = pruned.keep(layers=[pruned.layers.index(name) for name in shared])
    below, above = pruned.values < band.min(axis=0), pruned.values > band.max(axis=0)
    return [
        _leaving(pruned, layer, (below[..., i], above[..., i]), len(band), pruned.draws(resamples=resamples))
        for i, layer in enumerate(shared)
    ]


def _first_level(layer: str) -> str:
    name = layer if len(layer) <= _NAMED else f"…{layer[-_NAMED:]}"
    return f"{name}: first iteration at which all replicates lie outside the range of the controls"


def _leaving(
    curves: Curves,
    layer: str,
    sides: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    controls: int,
    draws: NDArray[np.int64],
) -> Claim:
    """The claim about one layer, from where its replicates lie (replicates, levels): below and above the controls."""
    levels, count = np.array(curves.levels, dtype=np.float64), curves.replicates
    below, above = sides
    outside: NDArray[np.bool_] = np.logical_or(below, above)
    alone: NDArray[np.bool_] = np.all(outside, axis=0)
    first = _first(alone[None], levels)[0]
    found = Estimate(float(first))
    if count > 1:
        tail = (1 - CONFIDENCE) / 2
        together: NDArray[np.bool_] = np.all(outside[draws], axis=1)
        resampled = _first(together, levels)
        # Levels are whole numbers, and never is none of them: nothing is interpolated.
        low, high = np.quantile(resampled, [tail, 1 - tail], method="inverted_cdf")
        found = Estimate(float(first), float(low), float(high))
    question = Question("i", curves.name, _first_level(layer), Range(high=levels[-1] + 1))
    claim = question.judge(found, curves)
    if count < LEAST:
        return claim
    if controls < LEAST:
        why = f"{controls} of the {LEAST} controls a verdict needs"
        return dataclasses.replace(claim, verdict=UNDECIDED, reason=why)
    if claim.verdict == FAILS:
        return dataclasses.replace(
            claim, reason="at no iteration do all replicates lie outside the range of the controls"
        )
    if claim.verdict == UNDECIDED:
        why = "only part of the replicates left: never are all outside at once, but those of some resamples are"
        return dataclasses.replace(claim, reason=why)
    back = levels[(levels > first) & ~alone]
    if len(back):
        why = f"back among the controls: all outside at iteration {first:.0f}, but not at iteration {back[0]:.0f}"
        return dataclasses.replace(claim, verdict=UNDECIDED, reason=why)
    side = "below" if below[:, alone].all() else "above" if above[:, alone].all() else ""
    if not side:  # they stand around the controls, which tells of their spread and not of a difference
        why = "on both sides of the controls: some replicates are above them, some below"
        return dataclasses.replace(claim, verdict=UNDECIDED, reason=why)
    by_chance = chance_of_one_side(count, controls)
    often = f"as many networks of one kind lie on one side in {100 * by_chance:.2g} % of cases"
    if alone.sum() == 1 and by_chance > 1 - CONFIDENCE + 1e-9:
        why = f"outside at the last iteration only: all are {side} the controls there, and {often}"
        return dataclasses.replace(claim, verdict=UNDECIDED, reason=why)
    why = f"{side} the controls: all {count} replicates from there on; at one iteration, {often}"
    return dataclasses.replace(claim, verdict=HOLDS, reason=why)


def chance_of_one_side(replicates: int, controls: int) -> float:
    """How often all replicates are below all controls, or all above, when both are networks of one kind.

    Example:
        >>> from prunecca.report.claims.followups import chance_of_one_side
        >>> chance_of_one_side(3, 3)
        0.1
    """
    return 2 / math.comb(replicates + controls, replicates)


def _first(outside: NDArray[np.bool_], levels: Array) -> Array:
    """The first level, along the last axis, at which all are outside; infinite where there is none."""
    first: Array = np.where(outside.any(axis=-1), levels[outside.argmax(axis=-1)], math.inf)
    return first
