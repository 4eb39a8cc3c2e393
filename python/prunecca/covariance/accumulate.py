"""One native call that adds a batch to moments: checks, the shift, host or device."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import torch
from torch import Tensor

from .. import _native
from .._arrays import native
from . import cuda
from .covariance import Precision
from .moments import Gram, Representation

_SHIFT_ROWS = 4096  # rows from which the shift is estimated; it only has to lie within a few deviations of the mean
# A call with no more rows is taken in float64: it costs little, and so few float32 errors do not average out (measured:
# up to 1.2e-7 relative with 300 rows of a few channels, 8e-8 with 500).
FEW_ROWS = 448
_CALL_BYTES = 1 << 28  # input bytes per native call, so that Ctrl-C is heard between calls
_scratch = threading.local()


def begin(x: Tensor, precision: Precision, norms: bool, channel_axis: int, name: str) -> Representation:
    """An empty state whose shift is estimated from ``x``."""
    channels = x.shape[channel_axis]
    if channels == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, which has no channels")
    zeros = torch.zeros(channels, dtype=torch.float64, device=x.device)
    new = Representation(0, zeros, zeros.clone(), Gram(zeros), True, precision, name)
    if x.shape[0]:
        new.shift = estimate_mean(x, channel_axis, name)
    new.gram = Gram.zeros(new, new, norms)
    return new


def check_members(members: Iterable[Representation]) -> None:
    """``ValueError`` when a batch on a CUDA device held a value that is not finite; waits for the device, once."""
    watches = [member.watch for member in members if member.watch is not None]
    cuda.Watch.check_all(list(dict.fromkeys(watches)))


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
        last.watch = last.watch or cuda.Watch(tensors[0].device)
        cuda.update(
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
