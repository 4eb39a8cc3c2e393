"""Streaming covariances on a CUDA device: the kernels are queued, and nothing waits for them.

So that no batch has to wait, values that are not finite are noted on the device and reported when a result is asked
for (``Watch.check``).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import torch
from torch import Tensor

from .. import _native
from .._arrays import NativeArray, native, stream_of

_NOTHING = (1 << 63) - 1
_CHECK_EVERY = 4096  # calls whose places are remembered before the device is asked, so that they take no memory
_MOST_VIEWS = 8  # of one call: kMostViews of csrc/cuda/covariance.cuh


class Watch:
    """Where the first value that was not finite has been: noted by the kernels, read when asked."""

    def __init__(self, device: torch.device) -> None:
        self.note = torch.full((1,), _NOTHING, dtype=torch.int64, device=device)
        self.places: list[tuple[str, list[str]]] = []

    def number(self, where: str, names: list[str]) -> int:
        """The number by which the kernels of a call name its place."""
        capturing = self.note.is_cuda and torch.cuda.is_current_stream_capturing()
        if len(self.places) >= _CHECK_EVERY and not capturing:
            self.check()
            self.places.clear()
        self.places.append((where, names))
        return len(self.places) - 1

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
        where, names = self.places[code >> 40]
        name = (
            " or ".join(names) if code >> 39 & 1 else f"{names[code >> 32 & 127]}, first in channel {code & 0xFFFFFFFF}"
        )
        raise ValueError(f"{where}NaN, infinity or values too large to square were given in {name}")


def update(
    views: list[Tensor],
    channel_axes: list[int],
    pairs: list[tuple[int, int]],
    shifts: list[Tensor],
    sums: list[Tensor | None],
    grams: list[Tensor],
    norms: list[Tensor],
    exact: bool,
    watch: Watch,
    where: str,
    names: list[str],
) -> None:
    """Queue on the current stream what ``_native.covariance_update`` does on the host.

    Views of different dtypes are first brought to the widest of them, and views whose rows nest in too many ways are
    made contiguous. Raises ``RuntimeError`` when the extension was built without CUDA.
    """
    if not hasattr(_native, "covariance_update_cuda"):
        raise RuntimeError(
            "arrays on a CUDA device were given, but prunecca was built without CUDA; move them to the CPU or build with PRUNECCA_CUDA=ON"
        )
    dtype = reduce(torch.promote_types, (v.dtype for v in views))
    views = [v.to(dtype) for v in views]
    for members, chosen in _calls(pairs, len(views)):
        place = {v: k for k, v in enumerate(members)}
        tensors = [views[v] for v in members]
        axes = [channel_axes[v] for v in members]
        wanted = [(place[pairs[p][0]], place[pairs[p][1]]) for p in chosen]
        targets = [sums[v] for v in members]
        sums = [None if v in place else s for v, s in enumerate(sums)]  # each is added to by one call
        size = _size(tensors, axes, wanted, targets, bool(norms), exact)
        if size == 0:
            tensors = [t.contiguous() for t in tensors]
            size = _size(tensors, axes, wanted, targets, bool(norms), exact)
        workspace = torch.empty(max(1, size // 8), dtype=torch.float64, device=views[0].device)
        _native.covariance_update_cuda(
            [native(t) for t in tensors],
            axes,
            wanted,
            [native(shifts[v]) for v in members],
            [None if t is None else native(t) for t in targets],
            [native(grams[p]) for p in chosen],
            [native(norms[p]) for p in chosen] if norms else [],
            exact,
            native(workspace),
            native(watch.note),
            watch.number(where, [names[v] for v in members]),
            stream_of(views[0]),
        )


def _size(
    tensors: list[Tensor],
    axes: list[int],
    pairs: list[tuple[int, int]],
    sums: list[Tensor | None],
    norms: bool,
    exact: bool,
) -> int:
    arrays: list[NativeArray] = [native(t) for t in tensors]
    return _native.covariance_workspace_cuda(arrays, axes, pairs, [s is not None for s in sums], norms, exact)


def _calls(pairs: list[tuple[int, int]], n_views: int) -> Iterator[tuple[list[int], list[int]]]:
    """Split into calls of at most ``_MOST_VIEWS`` views: the views, and the pairs by their index, of each call."""
    if n_views <= _MOST_VIEWS:
        yield list(range(n_views)), list(range(len(pairs)))
        return
    left = list(range(len(pairs)))
    while left:
        members: set[int] = set()
        for p in left:
            grown = members | set(pairs[p])
            members = grown if len(grown) <= _MOST_VIEWS else members
        yield sorted(members), [p for p in left if members.issuperset(pairs[p])]
        left = [p for p in left if not members.issuperset(pairs[p])]
