"""Reading large files piece by piece, the next pieces while the present ones are being used."""

from __future__ import annotations

import errno
import math
import mmap
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .regular_files import open_regular

# Reads the rows from ``start`` to ``stop`` into an array.
ReadRows = Callable[[int, int, "np.ndarray[Any, Any]"], None]

_BLOCK = mmap.PAGESIZE  # a direct read begins, ends and lands at multiples of this; no disk has larger blocks
_SAMPLES = 16  # bytes of a file that are looked for in the page cache


@dataclass(frozen=True)
class Piece:
    """A range of bytes of a file.

    Args:
        path: of the file.
        offset, length: of the range.
        alignment: in memory it begins at a multiple of this, if it does so in the file.
    """

    path: Path
    offset: int
    length: int
    alignment: int = 1

    @property
    def room(self) -> int:
        """Bytes of the blocks that hold it."""
        return -(-(self.offset % _BLOCK + self.length) // _BLOCK) * _BLOCK


@dataclass(frozen=True)
class Fetched:
    """Rows of an array that a library reads.

    Args:
        opened: a context that gives a function reading the rows from ``start`` to ``stop`` into an array; the arrays of
            one plan that have the same ``opened`` share it, and it is asked in the order of the plan.
        start, stop: the rows.
        row: the shape of one.
        dtype: of the array.
    """

    opened: Callable[[], AbstractContextManager[ReadRows]]
    start: int
    stop: int
    row: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def length(self) -> int:
        """Bytes of the rows."""
        return (self.stop - self.start) * math.prod(self.row) * self.dtype.itemsize

    @property
    def room(self) -> int:
        """Bytes of the blocks that hold them."""
        return -(-self.length // _BLOCK) * _BLOCK


@dataclass(frozen=True)
class Chunk:
    """Pieces in memory, as uint8 arrays. They may be overwritten once the chunk is released."""

    pieces: list[np.ndarray[Any, np.dtype[np.uint8]]]
    _buffer: np.ndarray[Any, np.dtype[np.uint8]]
    _free: queue.SimpleQueue[Any]

    def release(self) -> None:
        """Give the memory back to the reader."""
        self._free.put(self._buffer)


@contextmanager
def read_ahead(plan: Sequence[Sequence[Piece | Fetched]], buffers: int = 2) -> Iterator[Iterator[Chunk]]:
    """Chunks of files, read in the order of a plan by a thread that runs ahead.

    A file that is not in the page cache is read past it, straight into the buffer: copying would take processor time
    from the arithmetic. Where the file system cannot, its pages are dropped from the cache once they were read. Either
    way no more than ``buffers`` chunks come into memory.

    Args:
        plan: the pieces of each chunk.
        buffers: how many chunks may be in memory.

    Yields:
        An iterator over the chunks; each is to be released after use.

    Raises:
        ValueError: a file ends before a piece does.
        OSError: a file cannot be read.
    """
    largest = max((sum(piece.room for piece in pieces) for pieces in plan), default=0)
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ready: queue.SimpleQueue[Chunk | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()
    for _ in range(buffers):
        free.put(np.frombuffer(mmap.mmap(-1, max(largest, 1)), np.uint8))  # begins with a page
    reader = threading.Thread(target=_read, args=(plan, free, ready, stop), name="prunecca-read-ahead", daemon=True)
    reader.start()
    try:
        yield _chunks(ready)
    finally:
        stop.set()
        free.put(None)  # wakes a reader that waits for a buffer
        reader.join()


def _chunks(ready: Any) -> Iterator[Chunk]:
    while (got := ready.get()) is not None:
        if isinstance(got, BaseException):
            raise got
        yield got


def _read(plan: Sequence[Sequence[Piece | Fetched]], free: Any, ready: Any, stop: threading.Event) -> None:
    """The thread: fills free buffers in order of the plan until it ends, fails or is stopped."""
    end: BaseException | None = None
    try:
        with ExitStack() as stack:
            files: dict[Path, _File] = {}
            readers: dict[Any, ReadRows] = {}
            for wanted in plan:
                buffer = free.get()
                if stop.is_set():
                    break
                pieces, start = [], 0
                for piece in wanted:
                    room = buffer[start : start + piece.room]
                    if isinstance(piece, Fetched):
                        if piece.opened not in readers:
                            readers[piece.opened] = stack.enter_context(piece.opened())
                        room = room[: piece.length]
                        rows = room.view(piece.dtype).reshape(-1, *piece.row)
                        readers[piece.opened](piece.start, piece.stop, rows)
                        pieces.append(room)
                    else:
                        if piece.path not in files:
                            files[piece.path] = _File(piece.path, stack)
                        pieces.append(files[piece.path].read(piece, room))
                    start += piece.room
                ready.put(Chunk(pieces, buffer, free))
    except BaseException as error:  # handed to the thread that asked
        end = error
    ready.put(end)


class _File:
    """An open file that is read past the page cache, unless it lies there."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._file = stack.enter_context(open_regular(path)).fileno()
        self._is_cached = self._probe()
        self._direct: int | None = None
        if not self._is_cached:
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            try:
                self._direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
                stack.callback(os.close, self._direct)
            except OSError:  # such as a file system in memory
                pass

    def read(self, piece: Piece, room: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of a piece, somewhere in ``room``."""
        before = piece.offset % _BLOCK
        if self._direct is not None and before % piece.alignment == 0:
            try:
                done = self._fill(self._direct, room, piece.offset - before, before + piece.length)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = None  # this file system wants it otherwise
            else:
                self._expect(piece, done - before)
                return room[before : before + piece.length]
        into = room[: piece.length]
        self._expect(piece, self._fill(self._file, into, piece.offset, piece.length))
        if not self._is_cached:
            os.posix_fadvise(self._file, piece.offset, piece.length, os.POSIX_FADV_DONTNEED)
        return into

    def _probe(self) -> bool:
        """Whether the page cache holds the file, judged by a few bytes of it."""
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)  # where a byte is missing, do not read all around it
        size = os.fstat(self._file).st_size
        try:
            for number in range(_SAMPLES):
                os.preadv(self._file, [bytearray(1)], size * number // _SAMPLES, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return False
            raise
        return True

    def _fill(self, file: int, into: Any, offset: int, least: int) -> int:
        """Read to the end of ``into`` or of the file, or to ``least`` bytes or more; the bytes there are."""
        done = 0
        while done < least and (got := os.preadv(file, [into[done:]], offset + done)):
            done += got
        return done

    def _expect(self, piece: Piece, done: int) -> None:
        if done < piece.length:
            at = piece.offset + max(done, 0)
            raise ValueError(f"{self._path} is truncated: it ended at byte {at} while it was read")
