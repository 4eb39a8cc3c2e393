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
from .moments import CrossMoments, Moments
from .view import Call, View

_SHIFT_ROWS = 4096  # rows from which the shift is estimated; it only has to lie within a few deviations of the mean
# A call with no more rows is taken in float64: it costs little, and so few float32 errors do not average out (measured:
# up to 1.2e-7 relative with 300 rows of a few channels, 8e-8 with 500).
FEW_ROWS = 448
_CALL_BYTES = 1 << 28  # input bytes per native call, so that Ctrl-C is heard between calls
_scratch = threading.local()


def begin(view: View, precision: Precision, norms: bool) -> Moments:
    """Moments of no rows, with a shift that is estimated from the first batch."""
    if view.channels == 0:
        shape = tuple(view.tensor.shape)
        raise ValueError(f"{view.where}{view.name} has shape {shape}, which has no channels")
    if view.tensor.shape[0]:
        shift = estimate_mean(view)
    else:
        shift = torch.zeros(view.channels, dtype=torch.float64, device=view.tensor.device)
    return Moments.empty(shift, precision, norms)


def check_members(members: Iterable[Moments]) -> None:
    """``ValueError`` when a batch on a CUDA device held a value that is not finite; waits for the device, once."""
    watches = [member.watch for member in members if member.watch is not None]
    cuda.Watch.check_all(list(dict.fromkeys(watches)))


def estimate_mean(view: View) -> Tensor:
    """Channel means of evenly spaced datapoints, (C,) float64, rounded to about an eighth of a deviation.

    Rounded because the many zeros of a rectified activation all become one value, minus the shift: unless its products
    are short enough to add up exactly, every tile is rounded the same way and nothing averages out (measured on
    rectified normal data: 9e-8 relative with the float32 mean, 8e-9 with a rounded one). Float32 holds the result.
    """
    x = view.tensor
    step = max(1, x.numel() // view.channels // _SHIFT_ROWS)
    sample = view.with_tensor(x[:: min(step, x.shape[0])])
    zeros = torch.zeros(view.channels, dtype=torch.float64, device=x.device)
    total = zeros.clone()
    _run(Call([sample], [], [zeros], [total], [], [], exact=False), cuda.Watch(x.device) if x.is_cuda else None)
    mean = total / sample.rows
    axes = [d for d in range(x.ndim) if d != view.channel_axis]
    deviation = sample.tensor.float().std(axes, correction=0).double()
    quantum = torch.exp2(deviation.log2().floor() - 2)
    rounded = (mean / quantum).round() * quantum
    return torch.where(deviation > 0, rounded, mean).float().double()


def accumulate(
    members: list[Moments],
    views: list[View],
    pairs: list[tuple[int, int]],
    cross: list[CrossMoments],
    counted: list[int],
) -> None:
    """Add the rows of views to moments.

    Args:
        members: the moments of each view.
        views: activations with the same rows.
        pairs: positions of two views whose products are added up.
        cross: where, one per pair.
        counted: positions of the members whose sums and counts grow; the last member is one of them.

    Raises:
        ValueError: shapes or devices that do not match, or values that are not finite; nothing of the native call at
            fault is then kept.
    """
    _check(members, views)
    first = views[0].tensor
    if views[0].rows == 0:
        return
    exact = views[0].rows <= FEW_ROWS or members[0].precision == "float64"
    exact = exact or any(view.tensor.dtype == torch.float64 for view in views)
    watch = None
    if first.is_cuda:
        watch = members[-1].watch = members[-1].watch or cuda.Watch(first.device)
    shifts, sums = [m.shift for m in members], [m.sum if i in counted else None for i, m in enumerate(members)]
    products, norms = [c.products for c in cross], [c.norms for c in cross if c.norms is not None]
    step = max(1, _CALL_BYTES * first.shape[0] // sum(v.tensor.numel() * v.tensor.element_size() for v in views))
    for start in range(0, first.shape[0], step):
        part = views
        if step < first.shape[0]:
            part = [v.with_tensor(v.tensor[start : start + step]) for v in views]
        _run(Call(part, pairs, shifts, sums, products, norms, exact), watch)
        for i in counted:
            members[i].count += part[i].rows
            members[i].exact = members[i].exact and exact


def _check(members: list[Moments], views: list[View]) -> None:
    rows, first, where = views[0].rows, views[0].tensor, views[-1].where
    for member, view in zip(members, views, strict=True):
        if view.channels != member.channels:
            raise ValueError(f"{where}{view.name} has {view.channels} channels; expected {member.channels}")
        if view.rows != rows or view.tensor.shape[0] != first.shape[0]:
            shapes = f"{tuple(view.tensor.shape)} beside {tuple(first.shape)}"
            raise ValueError(f"{where}{view.name} has shape {shapes}; both must have the same datapoints and positions")
        if view.tensor.device != member.shift.device:
            device, expected = view.tensor.device, member.shift.device
            raise ValueError(f"{where}{view.name} is on {device}, but its first batch was on {expected}")


def _run(call: Call, watch: cuda.Watch | None) -> None:
    if watch is not None:
        cuda.update(call, watch)
        return
    arrays = [native(v.tensor) for v in call.views]
    axes, threads = call.channel_axes, torch.get_num_threads()
    size = _native.covariance_workspace(arrays, axes, call.pairs, bool(call.norms), call.exact, threads)
    view, channel = _native.covariance_update(
        arrays,
        axes,
        call.pairs,
        [native(s) for s in call.shifts],
        [None if s is None else native(s) for s in call.sums],
        [native(p) for p in call.products],
        [native(n) for n in call.norms],
        call.exact,
        threads,
        native(_workspace(size)),
    )
    if view >= 0:
        where, name = call.views[-1].where, call.views[view].name
        raise ValueError(f"{where}{name} holds NaN, infinity or values too large to square, first in channel {channel}")


def _workspace(size: int) -> Tensor:
    """Scratch memory of at least ``size`` bytes, kept by each thread because fresh pages cost more than the work."""
    kept: Tensor | None = getattr(_scratch, "tensor", None)
    if kept is None or kept.numel() * 8 < size:
        kept = _scratch.tensor = torch.empty(size // 8 + 1, dtype=torch.float64)
    return kept
