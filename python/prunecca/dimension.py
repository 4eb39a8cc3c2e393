"""Dimension of a representation: TwoNN, from the distances to the two nearest neighbours, and by principal components."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._arrays import as_tensor
from .activations.batch_axis import BatchAxis
from .activations.evaluation_mode import evaluating
from .activations.first_pass import ModelCall, SharedBatch
from .activations.hooks import capturing
from .activations.inputs import Forward, input_batches
from .activations.layers import Layer, LayerChoice, find_layers
from .activations.outputs import Output
from .activations.wrappers import eager, unwrapped
from .covariance.covariance import Covariance
from .linalg.batched import eigvalsh
from .linalg.neighbours import nearest

_NEIGHBOURS = 16  # so many that a resample practically always holds two of them
_FEWEST = 5  # distinct points below which nothing can be said
_VANISHING = 2.0**-89  # of half the spread of the widest feature
_STORED_BYTES = 1 << 30  # activations kept at a time by intrinsic_dimensions
_BLOCK = 4096  # rows, or features, that are widened to float64 at a time
_ROUNDING = 1e-30  # of the square of the largest number: what is left of the variance of constants


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
    distinct = distinct_rows(points)
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
    inputs are kept, as many layers at a time as fit into 1 GiB. Beside TwoNN stands PC-ID, which is far larger where a
    manifold of few dimensions is bent (Ansuini et al. 2019).

    Args:
        model, loader, layers, forward, output, device: as in ``compare``.
        max_datapoints: inputs that are used.
        seed: as in ``intrinsic_dimension``.

    Returns:
        A table with a row per layer and the columns layer, kind, depth, dimension, error, count, duplicates, features
        (numbers of a representation), pc_dimension (principal components that hold 90 % of the variance).

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
        batches = input_batches(loader, max_datapoints, (0, 1), forward, BatchAxis(model, forward))
        inputs = [SharedBatch(batch, target) for _, batch, _ in batches]
        if not inputs:
            raise ValueError("the loader gave no inputs; expected at least one batch")
        call = ModelCall(model, "the model", inputs[0].copy)
        found = find_layers(model, inputs[0].copy, layers)
        call.outputs(found, inputs[0].copy, output)
        groups, axes = _groups(call, found, inputs, output)
        for group in groups:
            parts = _activations(call, group, inputs, output, axes)
            for layer in group:
                points = torch.cat(parts.pop(layer.name))
                try:
                    result = intrinsic_dimension(points, seed=seed)
                    components = pc_dimension(points)
                except ValueError as error:
                    raise ValueError(f"layer {layer.name!r}: {error}") from error
                rows.append(
                    {"layer": layer.name, "kind": layer.kind, "depth": layer.depth}
                    | vars(result)
                    | {"features": points[0].numel(), "pc_dimension": components}
                )
    return pd.DataFrame(rows)


def pc_dimension(x: Any, *, variance: float = 0.9, side: Literal["x", "y"] = "x") -> int | Tensor:
    """PC-ID (Ansuini et al. 2019): the number of principal components that hold ``variance`` of the variance.

    The smallest k for which the k largest eigenvalues of the covariance sum up to at least that part of its trace. Invariant
    to orthogonal maps, to isotropic scaling and to constants added to features.

    Args:
        x: a ``Covariance``, or a (N, ...) float16 to float64 array; one datapoint per row, the other dimensions are
            flattened.
        variance: part of the variance, between 0 and 1.
        side: of a ``Covariance``.

    Returns:
        The number; 0 without variance; a (...) int64 tensor of a batched covariance.

    Raises:
        ValueError: NaN or infinity, fewer than two datapoints, a variance outside (0, 1), another side.

    Example:
        >>> import torch, prunecca as pc
        >>> pc.pc_dimension(torch.randn(500, 3) @ torch.randn(3, 40), variance=0.999)
        3
    """
    if not 0.0 < variance < 1.0:
        raise ValueError(f"variance is {variance}; expected a part of it between 0 and 1, such as 0.9")
    if side not in ("x", "y"):
        raise ValueError(f"side is {side!r}; expected 'x' or 'y'")
    values = eigvalsh((x.xx if side == "x" else x.yy) if isinstance(x, Covariance) else _scatter(as_tensor(x, "x")))
    sums = values.flip(-1).clamp_min(0.0).cumsum(-1)
    total = sums[..., -1:]
    # Less what rounding may take: of two equal eigenvalues, the first holds half.
    count = torch.where(total[..., 0] > 0, (sums < (variance - 1e-12) * total).sum(-1) + 1, 0)
    return count if count.ndim else int(count)


def _scatter(points: Tensor) -> Tensor:
    """A matrix with the eigenvalues of the covariance up to a factor: products of features, or of rows if those are fewer."""
    if points.ndim < 2 or len(points) < 2 or not points.numel():
        raise ValueError(f"x has shape {tuple(points.shape)}; expected (datapoints, ...), two datapoints or more")
    points = points.flatten(1)
    size = float(points.abs().max())
    if not math.isfinite(size):
        raise ValueError("x holds NaN or infinity; expected finite activations")
    size = size or 1.0
    rows, features = points.shape
    products = torch.zeros((min(points.shape),) * 2, dtype=torch.float64, device=points.device)
    if rows < features:
        for part in torch.split(points, _BLOCK, 1):
            own = part.double() / size
            own -= own.mean(0)
            products.addmm_(own, own.mT)
    else:
        mean = (
            sum(((part.double() / size).sum(0) for part in torch.split(points, _BLOCK)), products.new_zeros(features))
            / rows
        )
        for part in torch.split(points, _BLOCK):
            own = part.double() / size - mean
            products.addmm_(own.mT, own)
    return products if float(products.trace()) > _ROUNDING * points.numel() else torch.zeros_like(products)


def distinct_rows(points: Tensor) -> list[int]:
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


def _groups(
    call: ModelCall, layers: list[Layer], inputs: list[SharedBatch], output: Output
) -> tuple[list[list[Layer]], dict[str, int]]:
    """The layers in portions whose activations of all inputs fit into ``_STORED_BYTES``, at least one in each.

    And which dimension of each layer's output holds the datapoints.
    """
    sizes: dict[str, int] = {}
    axes: dict[str, int] = {}
    few = inputs[0].copy.few()
    count = sum(batch.copy.count for batch in inputs)

    def measure(layer: Layer, x: Tensor) -> None:
        axes[layer.name] = next((d for d, length in enumerate(x.shape[:2]) if length == few.count), 0)
        sizes[layer.name] = x.numel() // few.count * x.element_size() * count

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
    return groups, axes


def _activations(
    call: ModelCall, layers: list[Layer], inputs: list[SharedBatch], output: Output, axes: dict[str, int]
) -> dict[str, list[Tensor]]:
    """The activations of each layer, batch by batch, their datapoints first."""
    kept: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}

    def keep(layer: Layer, x: Tensor) -> None:
        axis, wanted = axes[layer.name], part.copy.count
        if x.shape[axis] != wanted:
            raise ValueError(
                f"layer {layer.name!r} gives shape {tuple(x.shape)} for {wanted} datapoints, none of whose first two dimensions "
                "is that long, so that it has no point for each; leave the layer out"
            )
        kept[layer.name].append((x.clone() if layer.overwritten else x).movedim(axis, 0))

    for part in inputs:
        with capturing(call.model, layers, keep, output=output):
            call(part)
    return kept
