"""Memory maps read chunk by chunk: the next chunk is asked for early, and pages that were used are given back."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

_CHUNK_BYTES = 32 << 20  # of all arrays together


def chunks(*arrays: Any) -> Iterator[tuple[Any, ...]]:
    """The arrays in pieces along their first dimension, where any of them is a memory map of more than a chunk.

    The maps' pages are taken out of the process after each chunk (not out of the page cache), so that its resident
    memory does not grow with the file. Other arrays and copy-on-write maps, whose pages may hold changes, are left alone.
    """
    maps = [a for a in arrays if isinstance(a, np.memmap) and a.mode != "c" and a.ndim]
    rows = max((len(a) for a in maps), default=0)
    total = sum(a.nbytes for a in maps)
    if total <= _CHUNK_BYTES or any(len(a) != rows for a in arrays):
        yield arrays
        return
    step = max(1, _CHUNK_BYTES * rows // total)
    for start in range(0, rows, step):
        for a in maps:
            _advise(a[start + step : start + 2 * step], mmap.MADV_WILLNEED)
        yield tuple(a[start : start + step] for a in arrays)
        for a in maps:
            _advise(a[start : start + step], mmap.MADV_DONTNEED)


def _advise(part: Any, advice: int) -> None:
    """Give advice on the whole pages that hold ``part``; other data in the same pages is read again when needed."""
    if not part.size:
        return
    low, high = np.lib.array_utils.byte_bounds(part)
    base = np.frombuffer(part._mmap, np.uint8).ctypes.data
    begin = (low - base) // mmap.PAGESIZE * mmap.PAGESIZE
    part._mmap.madvise(advice, begin, high - base - begin)
