"""The float64 state behind a streaming covariance: shifted sums of one representation, and products of two."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import cuda
from .covariance import Precision


@dataclass
class Gram:
    """Shifted products of two representations: ``gram = sum (x - shift_x)(y - shift_y)^T``, float64 ``(Cx, Cy)``.

    Of a representation with itself only the upper triangle is kept. ``norms``, if kept, is
    ``[sum |x|^2 |y|^2, sum |y|^2 x (Cx), sum |x|^2 y (Cy)]`` of the shifted rows.
    """

    gram: Tensor
    norms: Tensor | None = None

    @classmethod
    def zeros(cls, x: Representation, y: Representation, norms: bool) -> Gram:
        cx, cy = x.channels, y.channels
        gram = torch.zeros(cx, cy, dtype=torch.float64, device=x.shift.device)
        return cls(gram, gram.new_zeros(1 + cx + cy) if norms else None)

    def tensors(self) -> dict[str, Tensor]:
        return {"gram": self.gram} | ({} if self.norms is None else {"norms": self.norms})

    def copy(self) -> Gram:
        return Gram(self.gram.clone(), None if self.norms is None else self.norms.clone())

    def add(self, other: Gram) -> None:
        self.gram += other.gram
        if self.norms is not None and other.norms is not None:
            self.norms += other.norms

    def full(self, x: Representation, y: Representation) -> Tensor:
        """The whole matrix; mirrors the upper triangle when ``x is y``."""
        return torch.triu(self.gram) + torch.triu(self.gram, 1).mT if x is y else self.gram

    def moved(self, x: Representation, y: Representation, shift_x: Tensor, shift_y: Tensor) -> Gram:
        """The same rows' products about other shifts: rows become ``x + d`` with ``d`` = old shift - new shift."""
        d, e, n = x.shift - shift_x, y.shift - shift_y, x.count
        gram = self.full(x, y)
        out = gram + torch.outer(x.sum, e) + torch.outer(d, y.sum) + n * torch.outer(d, e)
        if self.norms is None:
            return Gram(out)
        cx = x.channels
        ab, bx, ay = self.norms[0], self.norms[1 : 1 + cx], self.norms[1 + cx :]
        a, b = x.gram.gram.diagonal().sum(), y.gram.gram.diagonal().sum()  # sums of |x|^2 and |y|^2
        dd, ee, dx, ey = d @ d, e @ e, d @ x.sum, e @ y.sum
        # |x + d|^2 = |x|^2 + 2 d.x + |d|^2, and likewise for y, multiplied out and summed over the rows.
        ab_moved = (
            ab + 2 * e @ ay + ee * a + 2 * d @ bx + 4 * d @ gram @ e + 2 * ee * dx + dd * b + 2 * dd * ey + n * dd * ee
        )
        bx_moved = bx + 2 * gram @ e + ee * x.sum + d * (b + 2 * ey + n * ee)
        ay_moved = ay + 2 * gram.mT @ d + dd * y.sum + e * (a + 2 * dx + n * dd)
        return Gram(out, torch.cat([ab_moved[None], bx_moved, ay_moved]))

    def centred(self, x: Representation, y: Representation) -> Tensor:
        """Unbiased covariance, ``(Cx, Cy)``."""
        return (self.full(x, y) - torch.outer(x.sum, y.sum) / x.count) / (x.count - 1)

    def fourth(self, x: Representation, y: Representation) -> Tensor:
        """Sum over datapoints of ``|x|^2 |y|^2`` of the centred rows; a scalar."""
        norms = self.moved(x, y, x.mean(), y.mean()).norms
        if norms is None:
            raise ValueError("the norms were not kept; accumulate with norms=True")
        return norms[0]


@dataclass
class Representation:
    """Shifted sums of one representation: count, shift ``(C,)``, sum ``(C,)`` and its gram with itself; float64."""

    count: int
    shift: Tensor
    sum: Tensor
    gram: Gram
    exact: bool  # all products so far were taken in float64
    precision: Precision = "float32"
    name: str = "x"
    watch: cuda.Watch | None = None  # on a CUDA device: where its kernels note values that are not finite

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], count: int, exact: bool, precision: Precision) -> Representation:
        gram = Gram(tensors["gram"], tensors.get("norms"))
        return cls(count, tensors["shift"], tensors["sum"], gram, exact, precision)

    @property
    def channels(self) -> int:
        return self.shift.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        return {"shift": self.shift, "sum": self.sum} | self.gram.tensors()

    def copy(self) -> Representation:
        return replace(self, shift=self.shift.clone(), sum=self.sum.clone(), gram=self.gram.copy(), watch=None)

    def mean(self) -> Tensor:
        return self.shift + self.sum / self.count

    def moved_to(self, shift: Tensor) -> Representation:
        """The same rows about another shift."""
        if shift.shape != self.shift.shape:
            raise ValueError(f"cannot merge {self.channels} channels into {shift.shape[0]}")
        total = self.sum + self.count * (self.shift - shift)
        return replace(self, shift=shift, sum=total, gram=self.gram.moved(self, self, shift, shift))

    def add(self, other: Representation) -> None:
        self.count += other.count
        self.sum = self.sum + other.sum
        self.gram.add(other.gram)
        self.exact = self.exact and other.exact
