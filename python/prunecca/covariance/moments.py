"""The float64 state behind a streaming covariance: shifted sums of one representation, and products of two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import cuda
from .covariance import Precision

# Bound of the relative error of an accumulated product, against exact arithmetic on the same data.
PRODUCT_ERROR = {"float32": 1e-7, "float64": 1e-14}
# Standard deviation of a channel, relative to its mean, up to which it is constant within the rounding of activations.
RESOLUTION = {"float32": 1e-7, "float64": 4e-16}
FAR = 4.0  # squared distance of the mean from the shift, in variances; as in the native code


@dataclass
class CrossMoments:
    """Shifted products of two representations: ``products = sum (x - shift_x)(y - shift_y)^T``.

    Attributes:
        products: (Cx, Cy) float64; of a representation with itself only the upper triangle is kept.
        norms: (1 + Cx + Cy,) float64; ``[sum |x|^2 |y|^2, sum |y|^2 x, sum |x|^2 y]`` of the shifted rows, if kept.
    """

    products: Tensor
    norms: Tensor | None = None

    @classmethod
    def zeros(cls, x: Moments, y: Moments, norms: bool) -> CrossMoments:
        cx, cy = x.channels, y.channels
        products = torch.zeros(cx, cy, dtype=torch.float64, device=x.shift.device)
        return cls(products, products.new_zeros(1 + cx + cy) if norms else None)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> CrossMoments:
        return cls(tensors["gram"], tensors.get("norms"))

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds; the products go by the name that files have always had."""
        return {"gram": self.products} | ({} if self.norms is None else {"norms": self.norms})

    def copy(self) -> CrossMoments:
        return CrossMoments(self.products.clone(), None if self.norms is None else self.norms.clone())

    def clear(self) -> None:
        """As if there had been no rows."""
        self.products.zero_()
        if self.norms is not None:
            self.norms.zero_()

    def times(self, count: int) -> CrossMoments:
        """Of the same rows so many times."""
        return CrossMoments(self.products * count, None if self.norms is None else self.norms * count)

    def add(self, other: CrossMoments) -> None:
        self.products += other.products
        if self.norms is not None and other.norms is not None:
            self.norms += other.norms

    def full(self, x: Moments, y: Moments) -> Tensor:
        """The whole matrix; mirrors the upper triangle when ``x is y``."""
        return torch.triu(self.products) + torch.triu(self.products, 1).mT if x is y else self.products

    def rescaled(self, x: Moments, y: Moments, exponent_x: int, exponent_y: int) -> CrossMoments:
        """The same rows' products of other powers of two times the two representations."""
        if (exponent_x, exponent_y) == (x.exponent, y.exponent):
            return self
        a, b = 2.0 ** (exponent_x - x.exponent), 2.0 ** (exponent_y - y.exponent)
        products = self.products * a * b
        if self.norms is None:
            return CrossMoments(products)
        ab, bx, ay = self.norms[:1], self.norms[1 : 1 + x.channels], self.norms[1 + x.channels :]
        return CrossMoments(products, torch.cat([ab * a * b * a * b, bx * b * a * b, ay * a * b * a]))

    def moved(self, x: Moments, y: Moments, shift_x: Tensor, shift_y: Tensor) -> CrossMoments:
        """The same rows' products about other shifts: rows become ``x + d`` with ``d`` = old shift - new shift."""
        d, e, n = x.shift - shift_x, y.shift - shift_y, x.count
        products = self.full(x, y)
        out = products + torch.outer(x.sum, e) + torch.outer(d, y.sum) + n * torch.outer(d, e)
        if self.norms is None:
            return CrossMoments(out)
        cx = x.channels
        ab, bx, ay = self.norms[0], self.norms[1 : 1 + cx], self.norms[1 + cx :]
        # Sums of |x|^2 and |y|^2.
        a, b = x.scatter.products.diagonal().sum(), y.scatter.products.diagonal().sum()
        dd, ee, dx, ey = d @ d, e @ e, d @ x.sum, e @ y.sum
        # |x + d|^2 = |x|^2 + 2 d.x + |d|^2, and likewise for y, multiplied out and summed over the rows.
        mixed = 4 * d @ products @ e
        ab_moved = ab + 2 * e @ ay + ee * a + 2 * d @ bx + mixed + 2 * ee * dx + dd * b + 2 * dd * ey + n * dd * ee
        bx_moved = bx + 2 * products @ e + ee * x.sum + d * (b + 2 * ey + n * ee)
        ay_moved = ay + 2 * products.mT @ d + dd * y.sum + e * (a + 2 * dx + n * dd)
        return CrossMoments(out, torch.cat([ab_moved[None], bx_moved, ay_moved]))

    def centred(self, x: Moments, y: Moments) -> Tensor:
        """Unbiased covariance, (Cx, Cy)."""
        return (self.full(x, y) - torch.outer(x.sum, y.sum) / x.count) / (x.count - 1)

    def fourth(self, x: Moments, y: Moments) -> Tensor:
        """Sum over datapoints of ``|x|^2 |y|^2`` of the centred rows; a scalar."""
        norms = self.moved(x, y, x.mean(), y.mean()).norms
        if norms is None:
            raise ValueError("the norms were not kept; accumulate with norms=True")
        return norms[0]


@dataclass
class Moments:
    """Shifted sums of one representation.

    Attributes:
        count: datapoints times positions; of weighted ones, the sum of the weights, a float where that is not whole.
        shift: (C,) float64; subtracted from every row.
        sum: (C,) float64; of the shifted rows.
        scatter: their products with themselves.
        exact: all products so far were taken in float64.
        precision: what was asked for.
        exponent: the rows were multiplied by 2 to this power, exactly, so that their squares fit float64.
        wide: products must be taken in float64: float32 holds their squares, or the shift, with fewer digits.
        far: the mean lies deviations away from the shift, so that float32 products about it lose digits.
        watch: on a CUDA device, where its kernels note values that are not finite.
    """

    count: int | float
    shift: Tensor
    sum: Tensor
    scatter: CrossMoments
    exact: bool = True
    precision: Precision = "float32"
    watch: cuda.Watch | None = None
    exponent: int = 0
    wide: bool = False
    far: bool = False

    @classmethod
    def empty(cls, shift: Tensor, precision: Precision, norms: bool, exponent: int = 0, wide: bool = False) -> Moments:
        """Of no rows, about a shift."""
        new = cls(0, shift, torch.zeros_like(shift), CrossMoments(shift), True, precision, None, exponent, wide)
        new.scatter = CrossMoments.zeros(new, new, norms)
        return new

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], precision: Precision, facts: dict[str, Any]) -> Moments:
        scatter = CrossMoments.from_tensors(tensors)
        return cls(shift=tensors["shift"], sum=tensors["sum"], scatter=scatter, precision=precision, **facts)

    @property
    def channels(self) -> int:
        return self.shift.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        return {"shift": self.shift, "sum": self.sum} | self.scatter.tensors()

    def fitting_exponent(self) -> int | None:
        """The exponent that the rows need; None where they are all zero and any will do."""
        return self.exponent if bool(self.shift.any() | self.sum.any()) else None

    def copy(self) -> Moments:
        return replace(self, shift=self.shift.clone(), sum=self.sum.clone(), scatter=self.scatter.copy(), watch=None)

    def clear(self) -> None:
        """As if there had been no rows; the shift stays."""
        self.count = 0
        self.far = False
        self.sum.zero_()
        self.scatter.clear()

    def mean(self) -> Tensor:
        return self.shift + self.sum / self.count

    def variance(self) -> Tensor:
        """Of each channel, divided by the count, (C,)."""
        return (self.scatter.products.diagonal() - self.sum.square() / self.count).clamp_min(0.0) / self.count

    def relative_error(self) -> Tensor:
        """Bound of what the products leave as the relative error of each channel's variance, (C,); infinite without one.

        Rounding is relative to the products about the shift, which are larger than those about the mean.
        """
        squares = self.scatter.products.diagonal() / self.count
        error = PRODUCT_ERROR["float64" if self.exact else "float32"] * squares / self.variance()
        return error.nan_to_num(nan=torch.inf, posinf=torch.inf)

    def settled_shift(self) -> Tensor:
        """A shift near the mean for every channel whose mean lies far from the present one, rounded as the first."""
        mean, deviation = self.sum / self.count, self.variance().sqrt()
        moved = self.shift + rounded_mean(mean, deviation)
        shift = torch.where(mean.square() > FAR * deviation.square(), moved, self.shift)
        return shift if self.wide else shift.float().double()

    def moved_to(self, shift: Tensor, wide: bool | None = None) -> Moments:
        """The same rows about another shift; ``wide`` where that differs."""
        if shift.shape != self.shift.shape:
            raise ValueError(f"cannot merge {self.channels} channels into {shift.shape[0]}")
        total = self.sum + self.count * (self.shift - shift)
        scatter = self.scatter.moved(self, self, shift, shift)
        return replace(
            self, shift=shift, sum=total, scatter=scatter, wide=self.wide if wide is None else wide, far=False
        )

    def rescaled(self, exponent: int) -> Moments:
        """The same rows, multiplied by another power of two."""
        factor = 2.0 ** (exponent - self.exponent)
        scatter = self.scatter.rescaled(self, self, exponent, exponent)
        return replace(
            self, shift=self.shift * factor, sum=self.sum * factor, scatter=scatter, exponent=exponent, wide=True
        )

    def times(self, count: int) -> Moments:
        """Of the same rows so many times."""
        return replace(
            self, count=self.count * count, sum=self.sum * count, scatter=self.scatter.times(count), watch=None
        )

    def add(self, other: Moments) -> None:
        self.count += other.count
        self.sum = self.sum + other.sum
        self.scatter.add(other.scatter)
        self.exact = self.exact and other.exact


def rounded_mean(mean: Tensor, deviation: Tensor) -> Tensor:
    """Means rounded to about an eighth of a deviation, (C,) float64.

    Rounded because the many zeros of a rectified activation all become one value, minus the shift: unless its products
    are short enough to add up exactly, every tile is rounded the same way and nothing averages out (measured on
    rectified normal data: 9e-8 relative with the float32 mean, 8e-9 with a rounded one).
    """
    quantum = torch.exp2(deviation.log2().floor() - 2)
    return torch.where(deviation > 0, (mean / quantum).round() * quantum, mean)
