"""One native call that adds a batch to moments: checks, the shift, host or device."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .. import _native
from .._arrays import native
from . import cuda
from .covariance import Precision
from .moments import CrossMoments, Moments, rounded_mean
from .view import Call, View
from .weighted import Outcome, add_weighted

_SHIFT_ROWS = 4096  # rows from which the shift is estimated; it only has to lie within a few deviations of the mean
# A call with no more rows is taken in float64: it costs little, and so few float32 errors do not average out (measured:
# up to 1.2e-7 relative with 300 rows of a few channels, 8e-8 with 500).
FEW_ROWS = 448
_WIDEST = 2.0**55  # deviations from its inverse up to this have squares whose sums float32 holds
_LEAST = 2.0**-119  # mean square below which float32 products have lost digits; as in the native code
# Of its mean, the deviation below which a channel of float32 numbers is constant: what float64 leaves of its mean. One
# number of _SHIFT_ROWS that differs by a rounding step makes 1e-9.
_CONSTANT = 1e-12
_FITTING = 200  # powers of two up to which, and down to minus which, fourth powers of activations fit float64
_NEAR = 8  # powers of two that make no difference
_CALL_BYTES = 1 << 28  # input bytes per native call, so that Ctrl-C is heard between calls
_scratch = threading.local()


class OutOfRange(Exception):
    """A representation must be multiplied by another power of two before a batch of it can be added.

    Attributes:
        position: of its view among those of the batch.
        exponent: of two.
    """

    def __init__(self, position: int, exponent: int) -> None:
        super().__init__(position, exponent)
        self.position, self.exponent = position, exponent


def begin(view: View, precision: Precision, norms: bool) -> Moments:
    """Moments of no rows, with a shift that is estimated from the first batch."""
    if view.channels == 0:
        shape = tuple(view.tensor.shape)
        raise ValueError(f"{view.where}{view.name} has shape {shape}, which has no channels")
    if view.rows == 0:
        shift = torch.zeros(view.channels, dtype=torch.float64, device=view.tensor.device)
        return Moments.empty(shift, precision, norms)
    exponent = _fitting_exponent(view.sample(_SHIFT_ROWS))
    shift, wide = estimate_shift(view, exponent)
    return Moments.empty(shift, precision, norms, exponent, wide)


def unshifted(member: Moments, view: View) -> bool:
    """Whether a member that was begun with no rows has yet to be given a shift, which a batch can give it."""
    empty = member.count == 0 and view.rows > 0 and view.channels == member.channels and not member.exponent
    if not empty or _is_capturing(view.tensor) or bool(member.shift.any()):
        return False
    return not _fitting_exponent(view.sample(_SHIFT_ROWS))


def check_members(members: Iterable[Moments]) -> None:
    """What the host sees of every batch, for members on a CUDA device; waits for the device, twice for all of them.

    Raises:
        ValueError: a batch held a value that is not finite, or squares that float32 does not hold.
    """
    on_device = [member for member in members if member.watch is not None]
    cuda.Watch.check_all(list(dict.fromkeys(m.watch for m in on_device if m.watch is not None)))
    lost = [_lost(member) for member in on_device if not member.exact]
    found = torch.stack([channels.any() for channels in lost]).tolist() if lost else []
    for channels, is_lost in zip(lost, found, strict=True):
        if is_lost:
            raise ValueError(
                f"the activations of channel {int(channels.nonzero()[0])} are so small after the first batch that float32 "
                "products do not hold their squares; accumulate with precision='float64'"
            )


def _lost(member: Moments) -> Tensor:
    """Which channels have squares that float32 products do not hold, (C,) bool."""
    squares = member.scatter.products.diagonal()
    return (squares < member.count * _LEAST) & ((squares > 0) | (member.sum != 0))


def estimate_shift(view: View, exponent: int = 0) -> tuple[Tensor, bool]:
    """Channel means of evenly spaced datapoints, rounded to about an eighth of a deviation.

    Args:
        view: a batch.
        exponent: the power of two by which its representation is multiplied.

    Returns:
        The means, (C,) float64, and whether products about them must be taken in float64: because the means need it
        (those of float64 activations), or the squares. Otherwise float32 holds the means.
    """
    sample = view.sample(_SHIFT_ROWS).rescaled(exponent)
    x, axis = sample.tensor, sample.channel_axis
    zeros = torch.zeros(view.channels, dtype=torch.float64, device=x.device)
    total = zeros.clone()
    # On a device float64 at once: the host cannot see that float32 does not hold a sum without waiting.
    call = Call([sample], [], [zeros], [total], [], [], exact=x.is_cuda or x.dtype == torch.float64)
    if x.is_cuda:
        cuda.update(call, cuda.Watch(x.device))
    elif _run(call).reason:  # sums that float32 does not hold
        outcome = _run(replace(call, exact=True))
        if outcome.reason:
            raise ValueError(outcome.sentence(sample))
    mean = total / sample.rows
    axes = [d for d in range(x.ndim) if d != axis]
    if x.dtype == torch.float64:
        return rounded_mean(mean, x.std(axes, correction=0)), True
    deviation = x.float().std(axes, correction=0).double()
    wide = False
    odd = ~((deviation > 1 / _WIDEST) & (deviation < _WIDEST))
    if not _is_capturing(x) and odd.any():  # mostly channels without variance; else float32 has lost the squares
        again = x.index_select(axis, odd.nonzero().squeeze(1)).double().std(axes, correction=0)
        again = torch.where(again > _CONSTANT * mean[odd].abs(), again, 0.0)
        deviation[odd] = again
        # Of a constant channel the number itself, so that nothing is left of it: its mean is off by rounding.
        constant = odd & (deviation == 0)
        mean = torch.where(constant, x.movedim(axis, -1).reshape(-1, view.channels)[0].double(), mean)
        wide = bool(((again > 0) & ~((again > 1 / _WIDEST) & (again < _WIDEST))).any())
    shift = rounded_mean(mean, deviation).float().double()
    return (without_small(shift, deviation) if x.is_cuda and x.element_size() == 2 else shift), wide


def without_small(shift: Tensor, deviation: Tensor) -> Tensor:
    """Shifts with those of no more than a deviation left out, (C,).

    A CUDA device multiplies sixteen-bit numbers exactly, and three times as fast, where they are not shifted; what a
    mean adds to the squares then is no more than what they are.
    """
    return torch.where(shift.abs() <= deviation, 0.0, shift)


def _fitting_exponent(view: View) -> int:
    """The power of two that brings float64 activations near 1 where their squares may not fit; 0 for all others."""
    if view.tensor.dtype != torch.float64 or not view.rows or _is_capturing(view.tensor):
        return 0
    exponent = _exponent_of(view) or 0
    return exponent if abs(exponent) > _FITTING else 0


def _exponent_of(view: View) -> int | None:
    """The power of two that brings the largest value near 1, as far as 2^1000; None where not all are finite."""
    largest = float(view.largest())
    return max(-1000, min(1000, -math.frexp(largest)[1])) if math.isfinite(largest) else None


def _is_capturing(x: Tensor) -> bool:
    # Nothing may wait for the device then.
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def accumulate(
    members: list[Moments],
    views: list[View],
    pairs: list[tuple[int, int]],
    cross: list[CrossMoments],
    counted: list[int],
    exact: bool = False,
) -> bool:
    """Add the rows of views to moments: all of them, or none.

    Args:
        members: the moments of each view.
        views: activations with the same rows.
        pairs: positions of two views whose products are added up.
        cross: where, one per pair.
        counted: positions of the members whose sums and counts grow.
        exact: take the products in float64, whatever the rows are.

    Returns:
        Whether the products were taken in float64.

    Raises:
        ValueError: shapes or devices that do not match, or values that are not finite.
        OutOfRange: the squares do not fit float64 as they are.
    """
    _check(members, views)
    first = views[0].tensor
    if views[0].rows == 0:
        return exact
    exact = exact or views[0].rows <= FEW_ROWS or members[0].precision == "float64"
    exact = (
        exact
        or views[0].weights is not None
        or any(m.wide for m in members)
        or any(view.tensor.dtype == torch.float64 for view in views)
    )
    if first.is_cuda and views[0].weights is None:
        members[-1].watch = members[-1].watch or cuda.Watch(first.device)
    call = Call(
        views=views,
        pairs=pairs,
        shifts=[m.shift for m in members],
        sums=[m.sum if i in counted else None for i, m in enumerate(members)],
        products=[c.products for c in cross],
        norms=[c.norms for c in cross if c.norms is not None],
        exact=exact,
        counts=[int(m.count) for m in members],
    )
    added = _Added()
    step = max(1, _CALL_BYTES * first.shape[0] // sum(v.tensor.numel() * v.tensor.element_size() for v in views))
    if step >= first.shape[0]:
        _add(call, members, added)
    else:
        _add_in_parts(call, members, added, step)
    for i in counted:
        member = members[i]
        member.count += views[i].count
        member.exact = member.exact and added.exact
        member.wide, member.far = member.wide or i in added.wide, member.far or i in added.far
    return added.exact


@dataclass(slots=True)
class _Added:
    """What became of a batch: whether all products were taken in float64, and which views are to change.

    Attributes:
        exact: all products were taken in float64.
        wide: positions of views whose squares float32 does not hold.
        far: positions of views whose means lie far from their shifts.
    """

    exact: bool = True
    wide: list[int] = field(default_factory=list)
    far: list[int] = field(default_factory=list)


def _add_in_parts(call: Call, members: list[Moments], added: _Added, step: int) -> None:
    """Native calls of ``step`` entries of the first dimension each, on copies of the states until all are done."""
    views = call.views
    sums = [t if t is None else t.clone() for t in call.sums]
    products, norms = [t.clone() for t in call.products], [t.clone() for t in call.norms]
    counts = list(call.counts)
    for start in range(0, views[0].tensor.shape[0], step):
        part = [v.part(start, start + step) for v in views]
        exact = call.exact or bool(added.wide)
        _add(Call(part, call.pairs, call.shifts, sums, products, norms, exact, counts), members, added)
        counts = [count + view.rows for count, view in zip(counts, part, strict=True)]
    for state, new in zip((*call.sums, *call.products, *call.norms), (*sums, *products, *norms), strict=True):
        if state is not None and new is not None:
            state.copy_(new)


def _add(call: Call, members: list[Moments], added: _Added) -> None:
    """One native call; on the host again in float64 where float32 products would lose digits."""
    given = call.views
    if any(m.exponent for m in members):
        call = replace(call, views=[view.rescaled(m.exponent) for view, m in zip(given, members, strict=True)])
    watch = members[-1].watch
    if watch is not None and given[0].weights is None:
        cuda.update(call, watch)
        added.exact = added.exact and call.exact
        return
    outcome = _run(call)
    if outcome.reason and not call.exact:
        if outcome.reason != "off centre":
            added.wide.append(outcome.view)
        call = replace(call, exact=True)
        outcome = _run(call)
    if outcome.reason:
        view, member = given[outcome.view], members[outcome.view]
        exponent = _exponent_of(view)
        if exponent is not None and abs(exponent - member.exponent) > _NEAR:
            raise OutOfRange(outcome.view, exponent)
        if outcome.reason != "underflow":
            raise ValueError(outcome.sentence(view))
        outcome = _run(call, any_range=True)  # of channels too far apart for any one power of two
    added.exact = added.exact and call.exact
    added.far += outcome.far


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


def _run(call: Call, any_range: bool = False) -> Outcome:
    if call.views[0].weights is not None:
        return add_weighted(call, call.views[0].weights, any_range)
    arrays = [native(v.tensor) for v in call.views]
    axes, threads = call.channel_axes, torch.get_num_threads()
    kept = None if call.views[0].kept is None else native(call.views[0].kept)
    size = _native.covariance_workspace(arrays, axes, call.pairs, bool(call.norms), call.exact, threads, kept)
    return Outcome(
        *_native.covariance_update(
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
            call.counts,
            any_range,
            kept,
        )
    )


def _workspace(size: int) -> Tensor:
    """Scratch memory of at least ``size`` bytes, kept by each thread because fresh pages cost more than the work."""
    kept: Tensor | None = getattr(_scratch, "tensor", None)
    if kept is None or kept.numel() * 8 < size:
        kept = _scratch.tensor = torch.empty(size // 8 + 1, dtype=torch.float64)
    return kept
