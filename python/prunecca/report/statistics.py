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

    def medians(self, *, resamples: int = RESAMPLES, seed: int = 0) -> Array:
        """Medians over replicates, (1 + resamples, levels, layers); the first is that of the replicates themselves."""
        # The name separates problems: their replicates are drawn independently of each other.
        draw = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        count = self.replicates
        chosen = draw.integers(count, size=(resamples, count)) if count > 1 else np.empty((0, 1), dtype=np.int64)
        step = max(1, _CHUNK // max(1, self.values.size))
        parts = [np.median(self.values, axis=0)[None]]
        parts += [np.median(self.values[chosen[i : i + step]], axis=1) for i in range(0, len(chosen), step)]
        return np.concatenate(parts)


def similarity_curves(similarity: pd.DataFrame, problem: str, metric: str, *, control: bool = False) -> Curves | None:
    """The similarity of the pruned networks with the unpruned one, level 0 left out; None when there are no rows.

    Replicates count when they have finished every level that any of them has; layers for which the metric is not
    defined somewhere (NaN) are left out.

    Args:
        similarity: the table of that name, of all problems.
        problem: which of them.
        metric: which of the metrics.
        control: take the controls instead, each as a replicate of one level.
    """
    if similarity.empty:
        return None
    chosen = similarity[
        (similarity["problem"] == problem)
        & (similarity["metric"] == metric)
        & (similarity["control"] == control)
        & (similarity["level"] > 0)
    ]
    if control:
        chosen = chosen.assign(replicate=chosen["level"], level=1)
    if chosen.empty:
        return None
    layers = chosen.drop_duplicates("layer").sort_values("depth")
    values = _cube(chosen.set_index(["replicate", "level", "layer"])["value"], list(layers["layer"]))
    if values is None:
        return None
    cube, levels = values
    kept = [i for i in range(cube.shape[2]) if np.isfinite(cube[:, :, i]).all()]
    if not kept:
        return None
    curves = Curves(cube, levels, tuple(layers["layer"]), tuple(layers["kind"]), problem)
    return curves.keep(layers=kept)


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
