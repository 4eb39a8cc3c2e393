"""Intrinsic dimension of a representation by TwoNN, from the distances to the two nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._arrays import as_tensor
from .activations.evaluation_mode import evaluating
from .activations.first_pass import ModelCall, SharedBatch
from .activations.hooks import capturing
from .activations.inputs import Forward, input_batches
from .activations.layers import Layer, LayerChoice, find_layers
from .activations.outputs import Output
from .activations.wrappers import eager, unwrapped
from .linalg.neighbours import nearest

_NEIGHBOURS = 16  # so many that a resample practically always holds two of them
_FEWEST = 5  # distinct points below which nothing can be said
_VANISHING = 2.0**-89  # of half the spread of the widest feature
_STORED_BYTES = 1 << 30  # activations kept at a time by intrinsic_dimensions


@dataclass(frozen=True)
class IntrinsicDimension:
    """An estimate of the intrinsic dimension and its uncertainty.

    Attributes:
        dimension, error: estimate and its standard error; NaN with fewer than 5 distinct points.
        count: distinct datapoints used.
        duplicates: further ones that repeat one of them and were left out; numbers about ``2**90`` times smaller than the
            spread of the data count as 0 there.

    Example:
        >>> import torch, prunecca as pc
        >>> pc.intrinsic_dimension(torch.zeros(10, 3))
        IntrinsicDimension(dimension=nan, error=nan, count=1, duplicates=9)
    """

    dimension: float
    error: float
    count: int
    duplicates: int


def intrinsic_dimension(x: Any, *, fraction: float = 0.9, resamples: int = 20, seed: int = 0) -> IntrinsicDimension:
    """TwoNN (Facco et al. 2017), as applied to the layers of networks by Ansuini et al. 2019.

    The ratio mu of the distances to the second and the first neighbour has ``P(mu <= t) = 1 - t**-d``; d is the slope,
    through the origin, of ``-log(1 - F(mu))`` against ``log(mu)`` over the smallest ``fraction`` of the ratios.

    Args:
        x: (N, ...) float16 to float64; one datapoint per row, the other dimensions are flattened.
        fraction: of the ratios, in (0, 1]; the largest are left out.
        resamples: the error is the standard deviation of the estimates from so many random halves of the datapoints
            (delete-half jackknife, Shao and Wu 1989); on uniform samples it is 1.2 to 1.5 times the true scatter, where
            the customary subsets of 90 % show half of it. Below 2 the error is NaN.
        seed: of the halves.

    Returns:
        The estimate, from distances that are exact to float64 whatever the dtype. Time is ``N**2`` times the features.

    Raises:
        ValueError: NaN or infinity, or a fraction outside (0, 1].

    Example:
        >>> import torch, prunecca as pc
        >>> generator = torch.Generator().manual_seed(0)
        >>> plane = torch.rand(1000, 2, generator=generator) @ torch.randn(2, 50, generator=generator)
        >>> 1.8 < pc.intrinsic_dimension(plane).dimension < 2.2
        True
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction is {fraction}; expected a fraction above 0 and up to 1, such as 0.9")
    points = as_tensor(x, "x")
    if points.ndim < 2:
        raise ValueError(f"x has shape {tuple(points.shape)}; expected (datapoints, ...)")
    points = points.flatten(1).to(torch.promote_types(points.dtype, torch.float32))
    if not bool(torch.isfinite(points).all()):
        raise ValueError("x holds NaN or infinity; expected finite activations")
    distinct = _distinct(points)
    duplicates = len(points) - len(distinct)
    if len(distinct) < _FEWEST:
        return IntrinsicDimension(math.nan, math.nan, len(distinct), duplicates)
    found = nearest(points[distinct] if duplicates else points, _NEIGHBOURS)
    distances, neighbours = (part.cpu().numpy() for part in found)
    everything = np.ones(len(distances), dtype=bool)
    estimates = []
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        chosen = np.zeros(len(distances), dtype=bool)
        chosen[random.permutation(len(distances))[: len(distances) // 2]] = True
        estimates.append(_slope(_ratios(distances, neighbours, chosen), fraction))
    return IntrinsicDimension(
        dimension=_slope(_ratios(distances, neighbours, everything), fraction),
        error=float(np.std(estimates, ddof=1)) if resamples > 1 else math.nan,
        count=len(distinct),
        duplicates=duplicates,
    )


def intrinsic_dimensions(
    model: nn.Module,
    loader: Iterable[Any],
    layers: Iterable[LayerChoice] | LayerChoice | None = None,
    *,
    max_datapoints: int = 2000,
    forward: Forward | None = None,
    output: Output = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Intrinsic dimension of each layer of a model.

    A datapoint's representation is its whole activation, all channels and positions. Activations of ``max_datapoints``
    inputs are kept, as many layers at a time as fit into 1 GiB.

    Args:
        model, loader, layers, forward, output, device: as in ``compare``.
        max_datapoints: inputs that are used.
        seed: as in ``intrinsic_dimension``.

    Returns:
        A table with a row per layer and the columns layer, kind, depth, dimension, error, count, duplicates, features
        (numbers of a representation).

    Raises:
        ValueError: an empty loader, layers that do not exist, activations that are not finite.

    Example:
        >>> import torch, prunecca as pc
        >>> images = torch.randn(40, 3, 32, 32)
        >>> table = pc.intrinsic_dimensions(pc.models.build("digits4"), images, layers=["conv1", "fc1"])
        >>> list(table["layer"]), list(table["features"])
        (['conv1', 'fc1'], [8192, 64])
    """
    rows: list[dict[str, Any]] = []
    model = unwrapped(model, "the model")
    named = {"the model": model}
    with evaluating(named, device) as target, torch.no_grad(), eager([model]):
        batches = input_batches(loader, max_datapoints, (0, 1), forward)
        inputs = [SharedBatch(batch, target) for _, batch, _ in batches]
        if not inputs:
            raise ValueError("the loader gave no inputs; expected at least one batch")
        call = ModelCall(model, "the model", inputs[0].copy)
        found = find_layers(model, inputs[0].copy, layers)
        call.outputs(found, inputs[0].copy, output)
        for group in _groups(call, found, inputs, output):
            parts = _activations(call, group, inputs, output)
            for layer in group:
                points = torch.cat(parts.pop(layer.name))
                try:
                    result = intrinsic_dimension(points, seed=seed)
                except ValueError as error:
                    raise ValueError(f"layer {layer.name!r}: {error}") from error
                rows.append(
                    {"layer": layer.name, "kind": layer.kind, "depth": layer.depth}
                    | vars(result)
                    | {"features": points[0].numel()}
                )
    return pd.DataFrame(rows)


def _distinct(points: Tensor) -> list[int]:
    """Positions of the first of each set of rows that are equal, where numbers that vanish beside the spread are 0."""
    if not points.numel():
        return [0] if len(points) else []
    # Noise far below everything else, as in a nearly dead layer, would be a cloud of its own. Halves cannot overflow.
    spread = float((points.amax(0) / 2 - points.amin(0) / 2).max())
    return _first_of_equals(torch.nn.functional.hardshrink(points, spread * _VANISHING))


def _first_of_equals(points: Tensor) -> list[int]:
    rows = (points + 0.0).contiguous().cpu().numpy()  # + 0.0 makes -0.0 equal to 0.0
    if not rows.size:
        return [0] if len(rows) else []
    # Each row as one item of bytes: unique(axis=0) compares number by number, which takes 40 times as long.
    whole = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    positions: list[int] = np.sort(np.unique(whole, return_index=True)[1]).tolist()
    return positions


def _ratios(
    distances: NDArray[np.float64], neighbours: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Distance to the second neighbour over that to the first, among the chosen points alone."""
    present = chosen[neighbours[chosen]]
    rank = present.cumsum(1)
    first, second = ((present & (rank == k)).argmax(1) for k in (1, 2))
    rows = np.arange(len(present))
    near = distances[chosen]
    known = (rank[:, -1] >= 2) & (near[rows, first] > 0)  # 0: closer than the smallest number squared
    ratios: NDArray[np.float64] = near[rows, second][known] / near[rows, first][known]
    return ratios


def _slope(ratios: NDArray[np.float64], fraction: float) -> float:
    n = len(ratios)
    if n < 2:
        return math.nan
    used = min(math.ceil(fraction * n), n - 1)  # the largest has F = 1, whose logarithm is infinite
    logs = np.log(np.sort(ratios)[:used])
    heights = -np.log1p(-np.arange(1, used + 1) / n)
    return float(logs @ heights / (logs @ logs)) if logs.any() else math.nan


def _groups(call: ModelCall, layers: list[Layer], inputs: list[SharedBatch], output: Output) -> list[list[Layer]]:
    """The layers in portions whose activations of all inputs fit into ``_STORED_BYTES``; at least one in each."""
    sizes: dict[str, int] = {}
    few = inputs[0].copy.few()
    count = sum(batch.copy.count for batch in inputs)

    def measure(layer: Layer, x: Tensor) -> None:
        sizes[layer.name] = x.numel() // len(x) * x.element_size() * count

    with capturing(call.model, layers, measure, output=output):
        few.call(call.model)
    groups: list[list[Layer]] = []
    room = 0
    for layer in layers:
        if not groups or sizes[layer.name] > room:
            groups.append([])
            room = _STORED_BYTES
        groups[-1].append(layer)
        room -= sizes[layer.name]
    return groups


def _activations(
    call: ModelCall, layers: list[Layer], inputs: list[SharedBatch], output: Output
) -> dict[str, list[Tensor]]:
    kept: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}

    def keep(layer: Layer, x: Tensor) -> None:
        kept[layer.name].append(x.clone() if layer.overwritten else x)

    for part in inputs:
        with capturing(call.model, layers, keep, output=output):
            call(part)
    return kept
