"""Reading large files piece by piece, the next pieces while the present ones are being used."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes; of every piece in its buffer


@dataclass(frozen=True)
class Piece:
    """A range of bytes of a file."""

    path: Path
    offset: int
    length: int


@contextmanager
def read_ahead(plan: Sequence[Sequence[Piece]]) -> Iterator[Iterator[list[Tensor]]]:
    """Iterate over chunks of pieces, each chunk a list of uint8 tensors; a thread reads the next chunk meanwhile.

    The tensors of a chunk are overwritten once the chunk after next is asked for. Two buffers of the largest chunk are
    held, and pages that were read are dropped from the page cache, so that memory does not grow with the files.

    Raises ``ValueError`` when a file ends before a piece does, and ``OSError`` when it cannot be read.
    """
    largest = max((sum(_padded(p.length) for p in chunk) for chunk in plan), default=0)
    free: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
    ready: queue.SimpleQueue[tuple[Tensor, list[Tensor]] | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()
    buffers = [torch.empty(largest, dtype=torch.uint8) for _ in range(2)]
    for buffer in buffers:
        free.put(buffer)
    reader = threading.Thread(target=_read, args=(plan, free, ready, stop), name="prunecca-read-ahead", daemon=True)
    reader.start()
    try:
        yield _chunks(free, ready)
    finally:
        stop.set()
        free.put(buffers[0])  # wakes a reader that waits for a buffer
        reader.join()


def _chunks(free: Any, ready: Any) -> Iterator[list[Tensor]]:
    while (got := ready.get()) is not None:
        if isinstance(got, BaseException):
            raise got
        buffer, pieces = got
        yield pieces
        free.put(buffer)


def _read(plan: Sequence[Sequence[Piece]], free: Any, ready: Any, stop: threading.Event) -> None:
    """The thread: fills free buffers in order of the plan until it ends, fails or is stopped."""
    end: BaseException | None = None
    try:
        with ExitStack() as stack:
            files: dict[Path, int] = {}
            for chunk in plan:
                buffer = free.get()
                if stop.is_set():
                    break
                pieces, start = [], 0
                for piece in chunk:
                    if piece.path not in files:
                        files[piece.path] = os.open(piece.path, os.O_RDONLY)
                        stack.callback(os.close, files[piece.path])
                        os.posix_fadvise(files[piece.path], 0, 0, os.POSIX_FADV_SEQUENTIAL)
                    pieces.append(buffer[start : start + piece.length])
                    _fill(files[piece.path], piece, pieces[-1])
                    start += _padded(piece.length)
                ready.put((buffer, pieces))
    except BaseException as error:  # handed to the thread that asked
        end = error
    ready.put(end)


def _fill(file: int, piece: Piece, into: Tensor) -> None:
    view: Any = into.numpy()
    done = 0
    while done < piece.length:
        got = os.preadv(file, [view[done:]], piece.offset + done)
        if got == 0:
            raise ValueError(f"{piece.path} is truncated: it ended at byte {piece.offset + done} while it was read")
        done += got
    os.posix_fadvise(file, piece.offset, piece.length, os.POSIX_FADV_DONTNEED)


def _padded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT
