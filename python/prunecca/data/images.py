"""Labelled images in memory or in files, as the readers of CIFAR-10, the digits and folders return them."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from .decoding import decode, opened


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images with their labels.

    Args:
        images: (N, 3, H, W) uint8 in memory, or files.
        labels: (N,) int64, indices into the class names.
        files: those that images in memory were decoded from, if they were.
    """

    images: Tensor | ImageFiles
    labels: Tensor
    files: ImageFiles | None = None


class ImageFiles:
    """Images on disk, decoded by a few threads ahead of their use.

    Args:
        paths: of the N files.
        side: of every decoded image in pixels: its shorter side is scaled to it, and its centre is taken.
    """

    def __init__(self, paths: Sequence[str], side: int) -> None:
        self.paths = list(paths)
        self.side = side

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, index: Tensor) -> ImageFiles:
        """The files at ``index`` (n,) int64, in that order."""
        return ImageFiles([self.paths[i] for i in index.tolist()], self.side)

    def stream(self, chunks: Iterable[Tensor], ahead: int = 2) -> Iterator[Tensor]:
        """The images of each chunk, (n, 3, side, side) uint8.

        Args:
            chunks: of indices (n,) int64.
            ahead: how many chunks early they are decoded.

        Raises:
            ValueError: a file is no image that can be read.
        """
        pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
        pending: deque[list[Future[Tensor]]] = deque()
        try:
            for chunk in chunks:
                pending.append([pool.submit(self._decode, self.paths[i]) for i in chunk.tolist()])
                if len(pending) > ahead:
                    yield torch.stack([image.result() for image in pending.popleft()])
            while pending:
                yield torch.stack([image.result() for image in pending.popleft()])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, path: str) -> Tensor:
        return decode(path, self.side)

    def digests(self) -> Iterator[bytes]:
        """SHA-256 of the content of each file, in order; a few threads read ahead.

        Raises:
            ValueError: a file is not there, or is a pipe, socket, device or folder.
        """
        threads = min(16, os.cpu_count() or 1)
        pool, pending = ThreadPoolExecutor(threads), deque[Future[bytes]]()
        try:
            for path in self.paths:
                pending.append(pool.submit(_file_digest, path))
                if len(pending) > 8 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _file_digest(path: str) -> bytes:
    with opened(path) as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def stratified(labels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Sorted indices of a random part of each class.

    Args:
        labels: (N,) int64.
        fraction: of each class, rounded, at least one, and not all where there are several.
        generator: draws them.
    """
    chosen = []
    for label in torch.unique(labels).tolist():
        members = torch.nonzero(labels == label).flatten()
        count = max(1, min(round(fraction * len(members)), len(members) - 1))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values
