"""What every metric starts from: the covariance of a pair, given as such or as two arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from .._arrays import as_tensor
from ..covariance.accumulator import CovarianceAccumulator
from ..covariance.covariance import Covariance, Layout, Precision
from ..covariance.view import View, channel_axis
from ..storage.memory_map import chunks

Side = Literal["x", "y"]
SIDES: tuple[Side, Side] = ("x", "y")

# Standard deviation of a channel, relative to its mean, up to which it is constant within rounding: that of the
# activations themselves, and where somebody else made the covariance (its errors are not known) that of a mean of many.
_RESOLUTION = {"float32": 1e-7, "float64": 4e-16}
_RESOLUTION_OF_OTHERS = {"float32": 1e-7, "float64": 1e-12}
# Exponent of two of a deviation up to which products of four variances are far from the ends of float64.
_HALF_RANGE = 60

_MANY_ROWS = 4096  # below, float64 products of a pair of 512 channels take less than a tenth of a second


def paired_covariance(
    x: Any, y: Any, *, precision: Precision | None = None, layout: Layout = "infer", norms: bool = False
) -> Covariance:
    """``x`` itself when it is a ``Covariance``, else that of two arrays, read in tiles of rows.

    Large memory maps are streamed: their pages leave the process once they were used.

    Args:
        x: a ``Covariance``, or an array of such a shape as ``layout`` allows.
        y: None beside a ``Covariance``, else an array with the same rows.
        precision: of the products; None for float64 where an array is float64 or has few rows, and float32 otherwise.
        layout: as in ``StreamingCovariance.update``.
        norms: also keep what debiased CKA needs.

    Raises:
        TypeError: anything else was given.
        ValueError: fewer than two datapoints.
    """
    if isinstance(x, Covariance):
        if y is not None:
            raise TypeError("a Covariance was given with a second argument; expected a Covariance alone, or two arrays")
        if x.count < 2:
            raise ValueError(f"the covariance is of {x.count} datapoints; expected at least 2")
        return in_range(x)
    if y is None:
        raise TypeError(f"one {type(x).__name__} was given; expected a Covariance, or two arrays with the same rows")
    first = as_tensor(x, "x")
    as_tensor(y, "y")
    axis = channel_axis(tuple(first.shape), layout)
    rows = first.numel() // max(1, first.shape[axis])
    accumulator = CovarianceAccumulator(precision=precision or default_precision(rows), norms=norms)
    for part_x, part_y in chunks(x, y) if axis else [(x, y)]:
        accumulator.add(View.of(part_x, "x", layout), [View.of(part_y, "y", layout)])
    return in_range(accumulator.finalize(rescale=True)[0])


def default_precision(rows: int) -> Precision:
    """float64 products for so few rows that they cost nothing; float32 products otherwise."""
    return "float64" if rows < _MANY_ROWS else "float32"


def in_range(cov: Covariance) -> Covariance:
    """The covariance of representations multiplied by powers of two, where squares of its entries leave float64.

    No metric depends on the scale of a whole representation, and powers of two are exact.
    """
    exponents = [_half_exponent(trace(matrix)) for matrix in (cov.xx, cov.yy)]
    if all(int(exponent.abs().max()) <= _HALF_RANGE if exponent.numel() else True for exponent in exponents):
        return cov
    a, b = (torch.exp2(-exponent.double()) for exponent in exponents)
    norms = cov.norms
    if norms is not None:
        norms = norms * torch.stack([a, b, a], -1) * torch.stack([a, b, b], -1)
        norms = norms * torch.stack([a, b, a], -1) * torch.stack([a, b, b], -1)
    return replace(
        cov,
        mean_x=cov.mean_x * a.unsqueeze(-1),
        mean_y=cov.mean_y * b.unsqueeze(-1),
        xx=cov.xx * _matrix(a) * _matrix(a),
        yy=cov.yy * _matrix(b) * _matrix(b),
        xy=cov.xy * _matrix(a) * _matrix(b),
        norms=norms,
    )


def _half_exponent(variance: Tensor) -> Tensor:
    """Of two, of the deviation: half that of a variance; 0 where it is 0 or not finite."""
    return torch.frexp(variance.nan_to_num(0.0, 0.0, 0.0)).exponent.div(2, rounding_mode="floor")


def _matrix(scale: Tensor) -> Tensor:
    return scale.unsqueeze(-1).unsqueeze(-1)


def dead_channels(cov: Covariance) -> tuple[Tensor, Tensor]:
    """How many channels of x and of y are constant to the resolution of the accumulation, (...) int64 each."""
    return (live_deviations(cov, "x") == 0).sum(-1), (live_deviations(cov, "y") == 0).sum(-1)


def live_deviations(cov: Covariance, side: Side) -> Tensor:
    """Standard deviations of one side's channels, (..., C) float64; 0 for those constant to the resolution."""
    matrix, mean, error = (cov.xx, cov.mean_x, cov.error_x) if side == "x" else (cov.yy, cov.mean_y, cov.error_y)
    resolution = _RESOLUTION[cov.precision] if error is not None else _RESOLUTION_OF_OTHERS[cov.precision]
    deviations = matrix.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    return torch.where(deviations <= resolution * mean.abs(), 0.0, deviations)


def squared_norm(matrix: Tensor) -> Tensor:
    """Of Frobenius: (..., m, n) to (...)."""
    return matrix.square().sum((-2, -1))


def trace(matrix: Tensor) -> Tensor:
    """(..., n, n) to (...)."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def python_number(value: Tensor) -> Any:
    """A Python number of a tensor without dimensions; a batch of values stays a tensor."""
    return value.item() if value.ndim == 0 else value


def nan_if_dead(cov: Covariance, value: Tensor) -> float | Tensor:
    """The value of a metric, and NaN where every channel of a side is dead, so that nothing is defined."""
    dead_x, dead_y = dead_channels(cov)
    undefined = (dead_x == cov.xx.shape[-1]) | (dead_y == cov.yy.shape[-1])
    result: float | Tensor = python_number(torch.where(undefined, torch.nan, value))
    return result
