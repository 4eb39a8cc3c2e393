"""What every metric starts from: the covariance of a pair, given as such or as two arrays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._arrays import as_tensor
from ..covariance.accumulator import CovarianceAccumulator
from ..covariance.covariance import Covariance, Layout, Precision
from ..covariance.view import View
from ..storage.memory_map import chunks

# Standard deviation of a channel, relative to its mean, up to which it is constant within rounding.
_RESOLUTION = {"float32": 1e-7, "float64": 1e-12}

_MANY_ROWS = 4096  # below, float64 products of a pair of 512 channels take less than a tenth of a second


def paired_covariance(
    x: Any, y: Any, *, precision: Precision | None = None, layout: Layout = "auto", norms: bool = False
) -> Covariance:
    """``x`` itself when it is a ``Covariance``, else that of two arrays, read in tiles of rows.

    Large memory maps are streamed: their pages leave the process once they were used.

    Args:
        x: a ``Covariance``, or a (N, C), (N, C, L), (N, C, H, W) or (N, L, C) array.
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
        return x
    if y is None:
        raise TypeError(f"one {type(x).__name__} was given; expected a Covariance, or two arrays with the same rows")
    first = as_tensor(x, "x")
    as_tensor(y, "y")
    rows = first.numel() // max(1, first.shape[-1 if layout == "nlc" else 1]) if first.ndim > 1 else 0
    accumulator = CovarianceAccumulator(precision=precision or default_precision(rows), norms=norms)
    for part_x, part_y in chunks(x, y):
        accumulator.add(View.of(part_x, "x", layout), [View.of(part_y, "y", layout)])
    return accumulator.finalize()[0]


def default_precision(rows: int) -> Precision:
    """float64 products for so few rows that they cost nothing; float32 products otherwise."""
    return "float64" if rows < _MANY_ROWS else "float32"


def dead_channels(cov: Covariance) -> tuple[Tensor, Tensor]:
    """How many channels of x and of y are constant to the resolution of the accumulation, (...) int64 each."""
    resolution = _RESOLUTION[cov.precision]
    return _count_constant(cov.xx, cov.mean_x, resolution), _count_constant(cov.yy, cov.mean_y, resolution)


def _count_constant(matrix: Tensor, mean: Tensor, resolution: float) -> Tensor:
    return (matrix.diagonal(dim1=-2, dim2=-1) <= (resolution * mean).square()).sum(-1)


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
