"""What every metric starts from: the covariance of a pair, given as such or as two arrays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from .._arrays import as_tensor
from ..covariance.accumulator import CovarianceAccumulator
from ..covariance.covariance import Covariance, Layout, Precision
from ..covariance.moments import RESOLUTION
from ..covariance.view import View, channel_axis
from ..errors import FewRows
from ..sizes.dual import dual_covariances
from ..storage.memory_map import chunks, release

Side = Literal["x", "y"]
SIDES: tuple[Side, Side] = ("x", "y")

# What a metric makes of a covariance of rotated coordinates: an error, since it needs channels; a value; or a value, and
# of arrays with more channels than rows it takes such a one by itself.
Rotated = Literal["refused", "accepted", "chosen"]

# As RESOLUTION, where somebody else made the covariance (its errors are not known): that of a mean of many.
_RESOLUTION_OF_OTHERS = {"float32": 1e-7, "float64": 1e-12}
# Exponent of two of a deviation up to which products of four variances are far from the ends of float64.
_HALF_RANGE = 60

# Rows for each direction from which on chance makes little of a canonical correlation.
ROWS_PER_DIRECTION = 10
_told: ContextVar[bool] = ContextVar("few rows are told by the caller", default=False)

_MANY_ROWS = 4096  # below, float64 products of a pair of 512 channels take less than a tenth of a second


def paired_covariance(
    x: Any,
    y: Any,
    *,
    precision: Precision | None = None,
    layout: Layout = "infer",
    norms: bool = False,
    rotated: Rotated = "refused",
) -> Covariance:
    """``x`` itself when it is a ``Covariance``, else that of two arrays, read in tiles of rows.

    Large memory maps are streamed: their pages leave the process once they were used.

    Args:
        x: a ``Covariance``, or an array of such a shape as ``layout`` allows.
        y: None beside a ``Covariance``, else an array with the same rows.
        precision: of the products; None for float64 where an array is float64 or has few rows, and float32 otherwise.
        layout: as in ``StreamingCovariance.update``.
        norms: also keep what debiased CKA needs.
        rotated: what becomes of rotated coordinates.

    Raises:
        TypeError: anything else was given.
        ValueError: fewer than two datapoints, or rotated coordinates that are refused.
    """
    if isinstance(x, Covariance):
        if y is not None:
            raise TypeError("a Covariance was given with a second argument; expected a Covariance alone, or two arrays")
        if x.count < 2:
            raise ValueError(f"the covariance is of {x.count} datapoints; expected at least 2")
        if x.rotated and rotated == "refused":
            raise ValueError(
                "the covariance is of rotated coordinates (a dual form), which are no channels; expected one of channels "
                "for this metric, or a metric that rotations do not change, such as linear_cka"
            )
        return in_range(x)
    if y is None:
        raise TypeError(f"one {type(x).__name__} was given; expected a Covariance, or two arrays with the same rows")
    unbatched = channel_axis(tuple(as_tensor(x, "x").shape), layout) == 0
    as_tensor(y, "y")
    first, second = View.of(x, "x", layout), View.of(y, "y", layout)
    precision = precision or default_precision(first.rows)
    if rotated == "chosen" and prefers_dual(first, second):
        return in_range(dual_covariances([first, second], precision, partial(release, x, y))[0])
    accumulator = CovarianceAccumulator(precision=precision, norms=norms)
    for part_x, part_y in [(x, y)] if unbatched else chunks(x, y):
        accumulator.add(View.of(part_x, "x", layout), [View.of(part_y, "y", layout)])
    return in_range(accumulator.finalize(rescale=True)[0])


def prefers_dual(x: View, y: View) -> bool:
    """Whether a matrix of rows by rows is smaller than one of channels by channels; False of rows that do not match."""
    alike = x.rows == y.rows and x.tensor.shape[0] == y.tensor.shape[0] and x.tensor.device == y.tensor.device
    return alike and 1 < x.rows < max(x.channels, y.channels)


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
        both = a + 0 * b, b + 0 * a  # of a batch, one side may be shared
        for _ in range(2):  # the fourth powers themselves may leave float64
            for mixed in both:
                norms = norms * torch.stack([*both, mixed], -1)
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
    x, y = ((live_deviations(cov, side) == 0).sum(-1) for side in SIDES)
    rotation = cov.rotation
    return (x, y) if rotation is None else (x + rotation.dead_x, y + rotation.dead_y)


def live_deviations(cov: Covariance, side: Side) -> Tensor:
    """Standard deviations of one side's channels, (..., C) float64; 0 for those constant to the resolution."""
    matrix, mean, error = (cov.xx, cov.mean_x, cov.error_x) if side == "x" else (cov.yy, cov.mean_y, cov.error_y)
    resolution = RESOLUTION[cov.precision] if error is not None else _RESOLUTION_OF_OTHERS[cov.precision]
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


def few_rows(count: int | float, directions: int) -> str | None:
    """What so few rows make of a value that directions were fitted for, in words; None where there are enough.

    Args:
        count: rows.
        directions: of both sides together.
    """
    if count <= directions:
        return "no more rows than directions, so that the value means nothing (any two representations get about 1)"
    if count < ROWS_PER_DIRECTION * directions:
        return f"fewer than {ROWS_PER_DIRECTION} rows a direction, so that part of the value is chance"
    return None


def warn_of_few_rows(metric: str, count: int | float, *kept: Any, stacklevel: int = 3) -> None:
    """Warn the caller of a metric, unless somebody else does.

    Args:
        metric: its name.
        count: rows.
        kept: directions of each side that were fitted; of a batch, tensors.
        stacklevel: of ``warnings.warn``; 3 is who called the metric.
    """
    directions = int(torch.as_tensor(sum(torch.as_tensor(side).cpu() for side in kept)).max())
    words = few_rows(count, directions)
    if words and not _told.get():
        warnings.warn(
            f"{metric}: {words}; there are {count} rows for {directions} directions. Give more datapoints, or use a metric "
            "that keeps no directions (linear_cka)",
            FewRows,
            stacklevel=stacklevel,
        )


@contextmanager
def few_rows_told() -> Iterator[None]:
    """Within it metrics do not warn of few rows: the caller does, once for all that it asks for."""
    token = _told.set(True)
    try:
        yield
    finally:
        _told.reset(token)


def nan_if_dead(cov: Covariance, value: Tensor) -> float | Tensor:
    """The value of a metric, and NaN where every channel of a side is dead, so that nothing is defined."""
    x, y = ((live_deviations(cov, side) > 0).any(-1) for side in SIDES)
    result: float | Tensor = python_number(torch.where(x & y, value, torch.nan))
    return result


def angle(similarity: float | Tensor) -> float | Tensor:
    """Whose cosine a similarity is; NaN stays NaN."""
    result: float | Tensor = python_number(torch.as_tensor(similarity, dtype=torch.float64).clamp(-1.0, 1.0).arccos())
    return result


def chord(similarity: float | Tensor) -> float | Tensor:
    """Euclidean distance of two vectors of unit norm whose inner product a similarity is; NaN stays NaN."""
    squared = 2.0 - 2.0 * torch.as_tensor(similarity, dtype=torch.float64)
    result: float | Tensor = python_number(squared.clamp_min(0.0).sqrt())
    return result


def members(cov: Covariance) -> Iterator[Covariance]:
    """The single covariances of a batch, in the order of its leading dimensions; itself where it is none."""
    shape = batch_shape(cov)
    if not shape:
        yield cov
        return
    fields = ("mean_x", "mean_y", "xx", "yy", "xy", "norms", "error_x", "error_y")
    parts: dict[str, Any] = {
        name: _by_member(getattr(cov, name), shape, 2 if name in ("xx", "yy", "xy") else 1) for name in fields
    }
    for i in range(math.prod(shape)):
        yield replace(cov, **{name: part and part[i] for name, part in parts.items()})


def batch_shape(cov: Covariance) -> torch.Size:
    """The leading dimensions; none of a single covariance."""
    return cov.xy.shape[:-2]


def of_each(cov: Covariance, function: Callable[[Covariance], float]) -> float | Tensor:
    """A function of single covariances: a float of one, a (...) float64 tensor of a batch."""
    values = [function(member) for member in members(cov)]
    shape = batch_shape(cov)
    return torch.tensor(values, dtype=torch.float64, device=cov.xy.device).reshape(shape) if shape else values[0]


def _by_member(tensor: Tensor | None, shape: torch.Size, own: int) -> list[Tensor] | None:
    """One tensor per member; what all members share stays the very tensor, so that its spectrum is computed once."""
    if tensor is None:
        return None
    if tensor.ndim == own:
        return [tensor] * math.prod(shape)
    return list(tensor.expand(*shape, *tensor.shape[tensor.ndim - own :]).flatten(0, len(shape) - 1))
