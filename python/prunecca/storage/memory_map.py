"""Memory maps read chunk by chunk: the next chunk is asked for early, and pages that were used are given back."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_CHUNK_BYTES = 32 << 20  # of all arrays together


def chunks(*arrays: Any) -> Iterator[tuple[Any, ...]]:
    """The arrays in pieces along their first dimension, where any of them is a memory map of more than a chunk.

    The maps' pages are taken out of the process after each chunk (not out of the page cache), so that its resident
    memory does not grow with the file. Other arrays and copy-on-write maps, whose pages may hold changes, are left alone.
    """
    mapped = [found for a in arrays if (found := _Mapped.of(a)) is not None]
    rows = max((m.array.shape[0] for m in mapped), default=0)
    total = sum(m.array.nbytes for m in mapped)
    if total <= _CHUNK_BYTES or any(tuple(a.shape[:1]) != (rows,) for a in arrays):
        yield arrays
        return
    step = max(1, _CHUNK_BYTES * rows // total)
    for start in range(0, rows, step):
        for m in mapped:
            m.advise(start + step, start + 2 * step, mmap.MADV_WILLNEED)
        yield tuple(a[start : start + step] for a in arrays)
        for m in mapped:
            m.advise(start, start + step, mmap.MADV_DONTNEED)


def release(*arrays: Any) -> None:
    """Take the pages of memory maps of more than a chunk out of the process, as ``chunks`` does."""
    for a in arrays:
        if (m := _Mapped.of(a)) is not None and m.array.nbytes > _CHUNK_BYTES:
            m.advise(0, len(m.array), mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class _Mapped:
    """An array whose data lie in a memory map, and that map."""

    array: np.ndarray[Any, Any]
    map: mmap.mmap

    @classmethod
    def of(cls, array: Any) -> _Mapped | None:
        """The map that an array is, or is a view of; None for other arrays, and for copies of maps, which have none."""
        if not isinstance(array, np.ndarray) or not array.ndim:
            return None
        owner: Any = array
        while isinstance(owner, np.ndarray):
            found = getattr(owner, "_mmap", None)
            if isinstance(owner, np.memmap) and isinstance(found, mmap.mmap):
                return cls(array, found) if owner.mode != "c" else None
            owner = owner.base
        return None

    def advise(self, start: int, stop: int, advice: int) -> None:
        """Give advice on the whole pages that hold these rows; other data in the same pages is read again when needed."""
        part = self.array[start:stop]
        if not part.size:
            return
        low, high = np.lib.array_utils.byte_bounds(part)
        base = np.frombuffer(self.map, np.uint8).ctypes.data
        begin = (low - base) // mmap.PAGESIZE * mmap.PAGESIZE
        self.map.madvise(advice, begin, high - base - begin)
