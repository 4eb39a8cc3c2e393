"""What was computed from a matrix, kept as long as the matrix is not written to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Memo:
    """Results that depend on one tensor, by name.

    Args:
        matrix: the tensor; None for a memo that is to be bound to one later.
        parts: of a tensor that others were stacked to, their memos in order: what is computed of the stack is known of
            them, and the other way round.
    """

    def __init__(self, matrix: Tensor | None = None, parts: Sequence[Memo] = ()) -> None:
        self.matrix = matrix
        self.parts = tuple(parts)
        self._results: dict[str, Any] = {}
        self._seen: int | Tensor | None = None

    def bound_to(self, matrix: Tensor) -> Memo:
        """This memo when it belongs to that very tensor, otherwise a new one that does."""
        return self if self.matrix is matrix else Memo(matrix)

    def recall(self, name: str) -> Any:
        """A result, or None if there is none yet or the tensor was written to since."""
        known = self.matrix is not None and _unchanged(self.matrix, self._seen)
        return self._results.get(name) if known else None

    def keep(self, name: str, result: Any) -> None:
        """Remember a result of the tensor as it is now."""
        if self.matrix is None:
            return
        if not _unchanged(self.matrix, self._seen):
            self._results.clear()
            self._seen = _state(self.matrix)
        self._results[name] = result


def _state(matrix: Tensor) -> int | Tensor:
    # Tensors of inference mode count no versions; within it they can be written to all the same.
    return matrix.clone() if matrix.is_inference() else matrix._version


def _unchanged(matrix: Tensor, seen: int | Tensor | None) -> bool:
    if isinstance(seen, Tensor):
        return torch.equal(matrix, seen)
    return not matrix.is_inference() and matrix._version == seen
