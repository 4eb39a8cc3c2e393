"""Statistics of a study with their uncertainty: medians over replicates, and intervals from resampling the replicates.

The paper's figures show medians over replicates, so a statistic here is a function of those medians. Its interval is the
percentile bootstrap (Efron 1979): replicates are drawn with replacement, medians and statistic computed anew. With three
replicates the interval reaches from the least to the greatest of them; more replicates make it narrower.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..figures.layer_pairs import is_distance

Array = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 1000
_CHUNK = 1 << 22  # numbers held at once while resampling


@dataclass(frozen=True)
class Estimate:
    """A statistic and its bootstrap interval; ``low`` and ``high`` are NaN where there is a single replicate."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Curves:
    """The values of one problem and metric, without gaps.

    Args:
        values: (replicates, levels, layers) float64.
        levels: the numbers of the levels.
        layers, kinds: names and kinds of the layers from input to output.
        name: of the problem.
    """

    values: Array
    levels: tuple[int, ...]
    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    name: str

    @property
    def replicates(self) -> int:
        """How many replicates there are."""
        return len(self.values)

    def keep(self, *, layers: list[int] | None = None, levels: int | None = None) -> Curves:
        """Only the layers at some positions, or only the first levels."""
        kept = list(range(len(self.layers))) if layers is None else layers
        count = len(self.levels) if levels is None else levels
        return Curves(
            self.values[:, :count][:, :, kept],
            self.levels[:count],
            tuple(self.layers[i] for i in kept),
            tuple(self.kinds[i] for i in kept),
            self.name,
        )

    def draws(self, *, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
        """Which replicates each resample has, (resamples, replicates); none of a single replicate."""
        # The name separates problems: their replicates are drawn independently of each other.
        draw = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        count = self.replicates
        return draw.integers(count, size=(resamples, count)) if count > 1 else np.empty((0, 1), dtype=np.int64)

    def medians(self, *, resamples: int = RESAMPLES, seed: int = 0) -> Array:
        """Medians over replicates, (1 + resamples, levels, layers); the first is that of the replicates themselves."""
        chosen = self.draws(resamples=resamples, seed=seed)
        step = max(1, _CHUNK // max(1, self.values.size))
        parts = [np.median(self.values, axis=0)[None]]
        parts += [np.median(self.values[chosen[i : i + step]], axis=1) for i in range(0, len(chosen), step)]
        return np.concatenate(parts)


def similarity_curves(similarity: pd.DataFrame, problem: str, metric: str, *, control: bool = False) -> Curves | None:
    """The similarity of the pruned networks with the unpruned one, level 0 left out; None when there are no rows.

    Replicates count when they have finished every level that any of them has; layers for which the metric is not
    defined somewhere (NaN) are left out. A distance d stands as the similarity 1 - d, so that more is always more alike.

    Args:
        similarity: the table of that name, of all problems.
        problem: which of them.
        metric: which of the metrics.
        control: take the controls instead, each as a replicate of one level.
    """
    return _curves(_rows(similarity, problem, metric, control=control), ["value"], problem)


def dimension_beside_similarity(
    similarity: pd.DataFrame, dimension: pd.DataFrame, problem: str, metric: str
) -> Curves | None:
    """Similarity and intrinsic dimension of the same layers of the same networks: the first and the second half of the layers.

    Args:
        similarity, dimension: the tables of these names, of all problems.
        problem: which of them.
        metric: the similarity.

    Returns:
        Curves as ``similarity_curves``, of the layers that have both; None when there are none.
    """
    rows = _rows(similarity, problem, metric)
    if rows.empty or dimension.empty:
        return None
    estimates = dimension[(dimension["problem"] == problem) & ~dimension["control"].astype(bool)]
    both = rows.merge(estimates[["replicate", "level", "layer", "dimension"]], on=["replicate", "level", "layer"])
    return _curves(both, ["value", "dimension"], problem)


def _rows(similarity: pd.DataFrame, problem: str, metric: str, *, control: bool = False) -> pd.DataFrame:
    """The rows of one metric, as similarities; of the controls, each as a replicate of one level."""
    if similarity.empty:
        return similarity
    chosen = similarity[
        (similarity["problem"] == problem)
        & (similarity["metric"] == metric)
        & (similarity["control"] == control)
        & (similarity["level"] > 0)
    ]
    if is_distance(metric):
        chosen = chosen.assign(value=1 - chosen["value"])
    return chosen.assign(replicate=chosen["level"], level=1) if control else chosen


def _curves(rows: pd.DataFrame, columns: list[str], problem: str) -> Curves | None:
    """The curves of one or several columns, one after the other, of the layers for which all are finite everywhere."""
    if rows.empty:
        return None
    layers = rows.drop_duplicates("layer").sort_values("depth")
    index = rows.set_index(["replicate", "level", "layer"])
    parts = [_cube(index[column], list(layers["layer"])) for column in columns]
    cubes = [part[0] for part in parts if part is not None]
    if parts[0] is None or len(cubes) < len(columns):
        return None
    finite = np.all([np.isfinite(cube).all(axis=(0, 1)) for cube in cubes], axis=0)
    kept = [int(i) for i in np.flatnonzero(finite)]
    if not kept:
        return None
    curves = Curves(
        np.concatenate(cubes, axis=2),
        parts[0][1],
        tuple(layers["layer"]) * len(columns),
        tuple(layers["kind"]) * len(columns),
        problem,
    )
    return curves.keep(layers=[part * len(layers) + i for part in range(len(columns)) for i in kept])


def accuracy_curves(levels: pd.DataFrame, problem: str) -> tuple[Curves, float] | None:
    """Test accuracy of the pruned networks, as the one layer of the curves, and that of the unpruned network."""
    if levels.empty:
        return None
    rows = levels[(levels["problem"] == problem) & ~levels["control"]]
    pruned = rows[rows["level"] > 0].assign(layer="accuracy")
    if pruned.empty or not (rows["level"] == 0).any():
        return None
    values = _cube(pruned.set_index(["replicate", "level", "layer"])["test_accuracy"], ["accuracy"])
    if values is None:
        return None
    unpruned = float(rows.loc[rows["level"] == 0, "test_accuracy"].iloc[0])
    return Curves(values[0], values[1], ("accuracy",), ("",), problem), unpruned


def estimate(values: Array) -> Estimate:
    """The estimate from the statistics of ``Curves.medians``: the first is the value, the others give the interval."""
    if len(values) < 2:
        return Estimate(float(values[0]))
    low, high = np.quantile(values[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(values[0]), float(low), float(high))


def bootstrap(curves: Curves, statistic: Callable[[Array], Array], *, resamples: int = RESAMPLES) -> Estimate:
    """The estimate of a statistic, a function of medians (..., levels, layers) that returns an array (...)."""
    return estimate(statistic(curves.medians(resamples=resamples)))


def kendall(values: Array, axis: int) -> Array:
    """Kendall's tau-a of the values with their order along an axis: 1 always rises, -1 always falls, ties count as 0."""
    values = np.moveaxis(values, axis, -1)
    first, second = np.triu_indices(values.shape[-1], 1)
    rises: Array = np.sign(values[..., second] - values[..., first]).mean(axis=-1)
    return rises


def kendall_between(first: Array, second: Array) -> Array:
    """Kendall's tau-a of two series along their last axis: 1 in the same order, -1 in the opposite, ties count as 0."""
    one, other = np.triu_indices(first.shape[-1], 1)
    signs = np.sign(first[..., other] - first[..., one]) * np.sign(second[..., other] - second[..., one])
    agreement: Array = signs.mean(axis=-1)
    return agreement


def chance_of_kendall(count: int, level: float = 1 - CONFIDENCE) -> float:
    """The least tau that shuffled orders of ``count`` things fall to, or below, more often than ``level``; exact.

    What lies below it is less than chance gives. It is -1 where even opposite orders are no rarer.

    Example:
        >>> from prunecca.report.statistics import chance_of_kendall
        >>> chance_of_kendall(3), round(chance_of_kendall(6), 3)  # opposite orders of 3: one shuffle of 6
        (-1.0, -0.6)
    """
    ways = [1]  # how many orders of the things so far have 0, 1, 2, ... pairs in the order of the other series
    for things in range(2, count + 1):
        pairs = things * (things - 1) // 2
        ways = [sum(ways[max(0, k - things + 1) : k + 1]) for k in range(pairs + 1)]
    pairs, total, so_far = len(ways) - 1, math.factorial(count), 0
    for concordant, number in enumerate(ways):
        so_far += number
        if so_far > level * total:
            return (2 * concordant - pairs) / pairs if pairs else -1.0
    return 1.0


def spread(values: Array) -> Array:
    """The range of (..., levels, layers) over the levels, averaged over the layers."""
    ranges: Array = (values.max(axis=-2) - values.min(axis=-2)).mean(axis=-1)
    return ranges


def _cube(values: pd.Series, layers: list[str]) -> tuple[Array, tuple[int, ...]] | None:
    """(replicates, levels, layers) of the complete replicates, from a series indexed by replicate, level and layer."""
    table = values.unstack("layer").reindex(columns=layers)
    levels = sorted({int(level) for level in table.index.get_level_values("level")})
    counts = table.groupby("replicate").size()
    complete = [replicate for replicate, count in counts.items() if count == len(levels)]
    if not complete:
        return None
    rows = table.loc[pd.MultiIndex.from_product([complete, levels])]
    return rows.to_numpy(dtype=np.float64).reshape(len(complete), len(levels), len(layers)), tuple(levels)
