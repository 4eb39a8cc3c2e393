"""Labelled images read from where they lie: CIFAR-10's python batches, scikit-learn's digits, folders of images.

Every reader returns ``Labelled`` training and test images with the same classes. Nothing is downloaded.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images (uint8 (N, 3, H, W) in memory, or files) with their labels (int64 (N,)), indices into the class names."""

    images: Tensor | ImageFiles
    labels: Tensor


class ImageFiles:
    """Images on disk as uint8 tensors (N, 3, side, side), decoded by a few threads ahead of their use."""

    def __init__(self, paths: Sequence[str], side: int) -> None:
        self.paths = list(paths)
        self.side = side

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, index: Tensor) -> ImageFiles:
        return ImageFiles([self.paths[i] for i in index.tolist()], self.side)

    def stream(self, chunks: Iterable[Tensor], ahead: int = 2) -> Iterator[Tensor]:
        """The images of each chunk of indices (n,) as uint8 (n, 3, side, side), decoded ``ahead`` chunks early."""
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
        from PIL import Image, ImageOps

        try:
            with Image.open(path) as image:
                fitted = ImageOps.fit(image.convert("RGB"), (self.side, self.side), Image.Resampling.BILINEAR)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds for a file that is not what it seems
            raise ValueError(f"{path} cannot be read as an image: {error}; replace or remove it") from error
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def stratified(labels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Sorted indices of a random ``fraction`` of each class (rounded, at least one)."""
    chosen = []
    for label in torch.unique(labels).tolist():
        members = torch.nonzero(labels == label).flatten()
        count = max(1, round(fraction * len(members)))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values
