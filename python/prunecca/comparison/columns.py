"""Stored activations of more channels than datapoints, read in blocks of columns for the dual form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import numpy as np
import torch

from ..covariance.covariance import Covariance, Layout, Precision
from ..covariance.view import channel_axis, flattened
from ..progress import Progress, reporting
from ..sizes.dual import DualAccumulator
from ..storage.array_files import StoredActivations
from ..storage.read_ahead import Piece, read_ahead

_BLOCK_BYTES = 32 << 20  # of one file; two are held
_LEAST = 4096  # bytes of a row that are read at a time: a page


def are_wide(files: Sequence[StoredActivations], layout: Layout) -> bool:
    """Whether the files hold matrices with the same rows, of which one has more columns than rows, and columns can be read."""
    if not all(f.in_place for f in files):
        return False
    shapes = [flattened(f.shape, layout) for f in files]
    if any(len(shape) != 2 or channel_axis(shape, layout) != 1 for shape in shapes):
        return False
    return len({rows for rows, _ in shapes}) == 1 and 1 < shapes[0][0] < max(columns for _, columns in shapes)


def read_columns(files: Sequence[StoredActivations], precision: Precision, progress: Progress) -> list[Covariance]:
    """Rotated covariances of the first file with each of the others, which are read once.

    Args:
        files: (N, ...) with the same datapoints; all dimensions but the first are channels.
        precision: of the products.
        progress: as in ``compare_files``.

    Raises:
        ValueError: as ``DualAccumulator.add``.
    """
    accumulator = DualAccumulator(precision=precision)
    plan = _Plan(files)
    with (
        reporting(progress, sum(f.nbytes for f in files), "bytes") as report,
        read_ahead(plan, 2) as chunks,
    ):
        done = 0
        for (index, first), chunk in zip(plan.blocks, chunks, strict=True):
            block = torch.from_numpy(np.stack(chunk.pieces)).view(files[index].dtype)
            chunk.release()
            accumulator.add(index, block, name=str(files[index].path), where=f"from channel {first} on")
            done += block.nbytes
            report(done)
    return [accumulator.covariance(0, y) for y in range(1, len(files))]


class _Plan(Sequence[list[Piece]]):
    """The pieces of each block, made when they are asked for: there is one per row.

    Attributes:
        blocks: number of the file and of its first column.
    """

    def __init__(self, files: Sequence[StoredActivations]) -> None:
        self._files = files
        rows = files[0].shape[0]
        self._widths = [max(1, max(_LEAST, _BLOCK_BYTES // rows) // f.dtype.itemsize) for f in files]
        self.blocks = [
            (k, start)
            for k, (f, width) in enumerate(zip(files, self._widths, strict=True))
            for start in range(0, math.prod(f.shape[1:]), width)
        ]

    def __len__(self) -> int:
        return len(self.blocks)

    @overload
    def __getitem__(self, block: int) -> list[Piece]: ...
    @overload
    def __getitem__(self, block: slice) -> list[list[Piece]]: ...
    def __getitem__(self, block: int | slice) -> list[Piece] | list[list[Piece]]:
        if isinstance(block, slice):
            return [self[k] for k in range(*block.indices(len(self)))]
        index, start = self.blocks[block]
        file, width = self._files[index], self._widths[index]
        size = file.dtype.itemsize
        length = min(width * size, file.row_bytes - start * size)
        return file.columns(start * size, length)
