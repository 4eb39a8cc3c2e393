"""The float64 state behind a streaming covariance: shifted sums of one representation, and products of two."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import cuda
from .covariance import Precision


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

    def add(self, other: CrossMoments) -> None:
        self.products += other.products
        if self.norms is not None and other.norms is not None:
            self.norms += other.norms

    def full(self, x: Moments, y: Moments) -> Tensor:
        """The whole matrix; mirrors the upper triangle when ``x is y``."""
        return torch.triu(self.products) + torch.triu(self.products, 1).mT if x is y else self.products

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
        count: datapoints times positions.
        shift: (C,) float64; subtracted from every row.
        sum: (C,) float64; of the shifted rows.
        scatter: their products with themselves.
        exact: all products so far were taken in float64.
        precision: what was asked for.
        watch: on a CUDA device, where its kernels note values that are not finite.
    """

    count: int
    shift: Tensor
    sum: Tensor
    scatter: CrossMoments
    exact: bool = True
    precision: Precision = "float32"
    watch: cuda.Watch | None = None

    @classmethod
    def empty(cls, shift: Tensor, precision: Precision, norms: bool) -> Moments:
        """Of no rows, about a shift."""
        new = cls(0, shift, torch.zeros_like(shift), CrossMoments(shift), precision=precision)
        new.scatter = CrossMoments.zeros(new, new, norms)
        return new

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], count: int, exact: bool, precision: Precision) -> Moments:
        scatter = CrossMoments.from_tensors(tensors)
        return cls(count, tensors["shift"], tensors["sum"], scatter, exact, precision)

    @property
    def channels(self) -> int:
        return self.shift.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        return {"shift": self.shift, "sum": self.sum} | self.scatter.tensors()

    def copy(self) -> Moments:
        return replace(self, shift=self.shift.clone(), sum=self.sum.clone(), scatter=self.scatter.copy(), watch=None)

    def clear(self) -> None:
        """As if there had been no rows; the shift stays."""
        self.count = 0
        self.sum.zero_()
        self.scatter.clear()

    def mean(self) -> Tensor:
        return self.shift + self.sum / self.count

    def moved_to(self, shift: Tensor) -> Moments:
        """The same rows about another shift."""
        if shift.shape != self.shift.shape:
            raise ValueError(f"cannot merge {self.channels} channels into {shift.shape[0]}")
        total = self.sum + self.count * (self.shift - shift)
        return replace(self, shift=shift, sum=total, scatter=self.scatter.moved(self, self, shift, shift))

    def add(self, other: Moments) -> None:
        self.count += other.count
        self.sum = self.sum + other.sum
        self.scatter.add(other.scatter)
        self.exact = self.exact and other.exact
