"""The float64 state behind a streaming covariance: shifted sums of one representation, and products of two."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from . import _native, gram_cuda
from ._arrays import native

Precision = Literal["float32", "float64"]

_SHIFT_ROWS = 4096  # rows from which the shift is estimated; it only has to lie within a few deviations of the mean
# A call with no more rows is taken in float64: it costs little, and so few float32 errors do not average out (measured:
# up to 1.2e-7 relative with 300 rows of a few channels, 8e-8 with 500).
FEW_ROWS = 448
_CALL_BYTES = 1 << 28  # input bytes per native call, so that Ctrl-C is heard between calls
_scratch = threading.local()


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
    watch: gram_cuda.Watch | None = None  # on a CUDA device: where its kernels note values that are not finite

    @classmethod
    def begin(cls, x: Tensor, precision: Precision, norms: bool, channel_axis: int, name: str) -> Representation:
        """An empty state whose shift is estimated from ``x``."""
        channels = x.shape[channel_axis]
        if channels == 0:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, which has no channels")
        zeros = torch.zeros(channels, dtype=torch.float64, device=x.device)
        new = cls(0, zeros, zeros.clone(), Gram(zeros), True, precision, name)
        if x.shape[0]:
            new.shift = estimate_mean(x, channel_axis, name)
        new.gram = Gram.zeros(new, new, norms)
        return new

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


def check_members(members: Iterable[Representation]) -> None:
    """``ValueError`` when a batch on a CUDA device held a value that is not finite; waits for the device, once."""
    watches = [member.watch for member in members if member.watch is not None]
    gram_cuda.Watch.check_all(list(dict.fromkeys(watches)))


def estimate_mean(x: Tensor, channel_axis: int, name: str) -> Tensor:
    """Channel means of evenly spaced datapoints of ``x``, ``(C,)``, rounded to about an eighth of a deviation.

    Rounded because the many zeros of a rectified activation all become one value, minus the shift: unless its products
    are short enough to add up exactly, every tile is rounded the same way and nothing averages out (measured on
    rectified normal data: 9e-8 relative with the float32 mean, 8e-9 with a rounded one). Float32 holds the result.
    """
    channels = x.shape[channel_axis]
    step = max(1, x.numel() // channels // _SHIFT_ROWS)
    sample = x[:: min(step, x.shape[0])]
    zeros = torch.zeros(channels, dtype=torch.float64, device=x.device)
    member = Representation(0, zeros, zeros.clone(), Gram(zeros), True, name=name)
    _call([member], [sample], [channel_axis], [], [], {0}, False, "")
    mean = member.sum / (sample.numel() // channels)
    deviation = sample.float().std([d for d in range(x.ndim) if d != channel_axis], correction=0).double()
    quantum = torch.exp2(deviation.log2().floor() - 2)
    rounded = (mean / quantum).round() * quantum
    return torch.where(deviation > 0, rounded, mean).float().double()


def accumulate(
    members: list[Representation],
    tensors: list[Tensor],
    channel_axes: list[int],
    pairs: list[tuple[int, int]],
    grams: list[Gram],
    counted: set[int],
    where: str,
) -> None:
    """Add the rows of ``tensors`` to the grams of ``pairs`` and to the sums and counts of ``members[i], i in counted``.

    Raises ``ValueError`` on shapes or devices that do not match and on values that are not finite; nothing of the
    native call at fault is then kept.
    """
    rows = [t.numel() // max(1, t.shape[a]) for t, a in zip(tensors, channel_axes, strict=True)]
    for member, tensor, axis, n in zip(members, tensors, channel_axes, rows, strict=True):
        if tensor.shape[axis] != member.channels:
            raise ValueError(f"{where}{member.name} has {tensor.shape[axis]} channels; expected {member.channels}")
        if n != rows[0] or tensor.shape[0] != tensors[0].shape[0]:
            shapes = f"{tuple(tensor.shape)} beside {tuple(tensors[0].shape)}"
            raise ValueError(
                f"{where}{member.name} has shape {shapes}; both must have the same datapoints and positions"
            )
        if tensor.device != member.shift.device:
            raise ValueError(
                f"{where}{member.name} is on {tensor.device}, but its first batch was on {member.shift.device}"
            )
    if rows[0] == 0:
        return
    exact = rows[0] <= FEW_ROWS or any(
        t.dtype == torch.float64 or m.precision == "float64" for t, m in zip(tensors, members, strict=True)
    )
    step = max(1, _CALL_BYTES * tensors[0].shape[0] // sum(t.numel() * t.element_size() for t in tensors))
    for start in range(0, tensors[0].shape[0], step):
        part = [t[start : start + step] for t in tensors]
        _call(members, part, channel_axes, pairs, grams, counted, exact, where)
        for i in counted:
            members[i].count += part[i].numel() // members[i].channels
            members[i].exact = members[i].exact and exact


def _call(
    members: list[Representation],
    tensors: list[Tensor],
    channel_axes: list[int],
    pairs: list[tuple[int, int]],
    grams: list[Gram],
    counted: set[int],
    exact: bool,
    where: str,
) -> None:
    if tensors[0].is_cuda:
        last = members[-1]  # in every call it is a member whose sums are added to
        last.watch = last.watch or gram_cuda.Watch(tensors[0].device)
        gram_cuda.update(
            tensors,
            channel_axes,
            pairs,
            [m.shift for m in members],
            [m.sum if i in counted else None for i, m in enumerate(members)],
            [g.gram for g in grams],
            [g.norms for g in grams if g.norms is not None],
            exact,
            last.watch,
            where,
            [m.name for m in members],
        )
        return
    views = [native(t) for t in tensors]
    norms = [native(g.norms) for g in grams if g.norms is not None]
    threads = torch.get_num_threads()
    size = _native.covariance_workspace(views, channel_axes, pairs, bool(norms), exact, threads)
    view, channel = _native.covariance_update(
        views,
        channel_axes,
        pairs,
        [native(m.shift) for m in members],
        [native(m.sum) if i in counted else None for i, m in enumerate(members)],
        [native(g.gram) for g in grams],
        norms,
        exact,
        threads,
        native(_workspace(size)),
    )
    if view >= 0:
        raise ValueError(
            f"{where}{members[view].name} holds NaN, infinity or values too large to square, first in channel {channel}"
        )


def _workspace(size: int) -> Tensor:
    """Scratch memory of at least ``size`` bytes, kept by each thread because fresh pages cost more than the work."""
    held: Tensor | None = getattr(_scratch, "tensor", None)
    if held is None or held.numel() * 8 < size:
        held = _scratch.tensor = torch.empty(size // 8 + 1, dtype=torch.float64)
    return held
