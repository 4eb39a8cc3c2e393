"""Streaming covariances on a CUDA device: the kernels are queued, and nothing waits for them.

So that no batch has to wait, values that are not finite are noted on the device and reported when a result is asked
for (``Watch.check``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce

import torch

from .. import _native
from .._arrays import native, stream_of
from .view import Call, View

_NOTHING = (1 << 63) - 1
_CHECK_EVERY = 4096  # calls that are remembered before the device is asked, so that they take no memory
_MOST_VIEWS = _native.MOST_VIEWS  # of one call
_PANEL, _MOST_PANELS = 64, 256  # channels that the kernels take together, and how often (covariance_plan.cuh)


class Watch:
    """Where the first value that was not finite has been: noted by the kernels, read when asked."""

    def __init__(self, device: torch.device) -> None:
        self.note = torch.full((1,), _NOTHING, dtype=torch.int64, device=device)
        self.calls: list[tuple[str, list[str]]] = []

    def number(self, where: str, names: list[str]) -> int:
        """The number by which the kernels name a call."""
        capturing = self.note.is_cuda and torch.cuda.is_current_stream_capturing()
        if len(self.calls) >= _CHECK_EVERY and not capturing:
            self.check()
            self.calls.clear()
        self.calls.append((where, names))
        return len(self.calls) - 1

    def check(self) -> None:
        """Wait for the device; ``ValueError`` that names the batch when a value so far was not finite."""
        self._report(int(self.note.item()))

    @staticmethod
    def check_all(watches: list[Watch]) -> None:
        """``check`` of many watches of one device, which is waited for once."""
        if watches:
            for watch, code in zip(watches, torch.cat([w.note for w in watches]).tolist(), strict=True):
                watch._report(code)

    def _report(self, code: int) -> None:
        if code == _NOTHING:
            return
        where, names = self.calls[code >> 40]
        name = (
            " or ".join(names) if code >> 39 & 1 else f"{names[code >> 32 & 127]}, first in channel {code & 0xFFFFFFFF}"
        )
        raise ValueError(f"{where}NaN, infinity or values too large to square were given in {name}")


def update(call: Call, watch: Watch) -> None:
    """Queue on the current stream what ``_native.covariance_update`` does on the host.

    Views of different dtypes are first brought to the widest of them, and views whose rows nest in too many ways are
    made contiguous.

    Args:
        call: what is read and what is added to.
        watch: where values that are not finite are noted.

    Raises:
        RuntimeError: the extension was built without CUDA.
        ValueError: two sides have more channels than the kernels take; nothing is queued then.
    """
    if not hasattr(_native, "covariance_update_cuda"):
        raise RuntimeError(
            "arrays on a CUDA device were given, but prunecca was built without CUDA; move them to the CPU or build with PRUNECCA_CUDA=ON"
        )
    dtype = reduce(torch.promote_types, (v.tensor.dtype for v in call.views))
    call = replace(call, views=[v.with_tensor(v.tensor.to(dtype)) for v in call.views])
    for part in list(_parts(call)):  # all of them first: one may be refused
        arrays = [native(v.tensor) for v in part.views]
        size = _workspace_size(part, arrays)
        if size == 0:
            part = replace(part, views=[v.with_tensor(v.tensor.contiguous()) for v in part.views])
            arrays = [native(v.tensor) for v in part.views]
            size = _workspace_size(part, arrays)
        first, where = part.views[0].tensor, part.views[-1].where
        workspace = torch.empty(max(1, size // 8), dtype=torch.float64, device=first.device)
        _native.covariance_update_cuda(
            arrays,
            part.channel_axes,
            part.pairs,
            [native(s) for s in part.shifts],
            [None if s is None else native(s) for s in part.sums],
            [native(p) for p in part.products],
            [native(n) for n in part.norms],
            part.exact,
            native(workspace),
            native(watch.note),
            watch.number(where, [v.name for v in part.views]),
            stream_of(first),
        )


def _workspace_size(call: Call, arrays: list[_native.Array]) -> int:
    """Bytes that the kernels need; 0 when they cannot take the views as they lie."""
    counted = [s is not None for s in call.sums]
    axes, norms = call.channel_axes, bool(call.norms)
    return _native.covariance_workspace_cuda(arrays, axes, call.pairs, counted, norms, call.exact)


def _parts(call: Call) -> Iterator[Call]:
    """The call in parts of at most ``_MOST_VIEWS`` views; each sum and each pair is in one of them."""
    summed: set[int] = set()
    check_channels(call.views, call.pairs)
    for members, chosen in _groups(call.pairs, [_panels(v) for v in call.views]):
        position = {v: k for k, v in enumerate(members)}
        yield Call(
            views=[call.views[v] for v in members],
            pairs=[(position[call.pairs[p][0]], position[call.pairs[p][1]]) for p in chosen],
            shifts=[call.shifts[v] for v in members],
            sums=[None if v in summed else call.sums[v] for v in members],
            products=[call.products[p] for p in chosen],
            norms=[call.norms[p] for p in chosen] if call.norms else [],
            exact=call.exact,
        )
        summed.update(members)


def check_channels(views: Sequence[View], pairs: Iterable[tuple[int, int]]) -> None:
    """Refuse what the kernels of a device cannot take, before any work.

    Raises:
        ValueError: a view, or the two of a pair, have more than 2^14 channels, each rounded up to 64.
    """
    if sum(map(_panels, views)) <= _MOST_PANELS:
        return
    for i, j in [*((k, k) for k in range(len(views))), *pairs]:
        sides = [views[k] for k in dict.fromkeys((i, j))]
        if sum(map(_panels, sides)) > _MOST_PANELS:
            raise ValueError(
                f"{views[-1].where}{' and '.join(v.name for v in sides)} {'has' if len(sides) == 1 else 'have'} "
                f"{' and '.join(str(v.channels) for v in sides)} channels; expected at most {_PANEL * _MOST_PANELS} "
                "together on a CUDA device, compare fewer channels or move the activations to the CPU"
            )


def _panels(view: View) -> int:
    return -(-view.channels // _PANEL)


def _groups(pairs: list[tuple[int, int]], panels: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Portions of at most ``_MOST_VIEWS`` views and ``_MOST_PANELS``: positions of the views, and of the pairs, of each."""

    def fit(members: Iterable[int]) -> bool:
        own = list(members)
        return len(own) <= _MOST_VIEWS and sum(panels[v] for v in own) <= _MOST_PANELS

    if fit(range(len(panels))):
        yield list(range(len(panels))), list(range(len(pairs)))
        return
    left = list(range(len(pairs)))
    while left:
        members: set[int] = set()
        for p in left:
            grown = members | set(pairs[p])
            members = grown if fit(grown) else members
        yield sorted(members), [p for p in left if members.issuperset(pairs[p])]
        left = [p for p in left if not members.issuperset(pairs[p])]
