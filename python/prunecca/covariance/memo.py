"""What was computed from a matrix, kept as long as the matrix is not written to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class Memo(Generic[Result]):
    """One result that depends on one tensor alone, computed when it is first asked for.

    Args:
        matrix: the tensor; None for a memo that is to be bound to one later.
    """

    def __init__(self, matrix: Tensor | None = None) -> None:
        self.matrix = matrix
        self._result: Result | None = None
        self._seen: int | Tensor | None = None

    def bound_to(self, matrix: Tensor) -> Memo[Result]:
        """This memo when it belongs to that very tensor, otherwise a new one that does."""
        return self if self.matrix is matrix else Memo(matrix)

    def recall(self) -> Result | None:
        """The result, unless there is none yet or the tensor was written to since."""
        return self._result if self.matrix is not None and _unchanged(self.matrix, self._seen) else None

    def keep(self, result: Result) -> Result:
        """Remember the result of the tensor as it is now."""
        if self.matrix is not None:
            self._result, self._seen = result, _state(self.matrix)
        return result

    def get(self, compute: Callable[[Tensor], Result]) -> Result:
        """The result, computed only when it is not known."""
        if self.matrix is None:
            raise ValueError("the memo belongs to no matrix; expected one that was bound to a matrix")
        known = self.recall()
        return self.keep(compute(self.matrix)) if known is None else known


def _state(matrix: Tensor) -> int | Tensor:
    # Tensors of inference mode count no versions; within it they can be written to all the same.
    return matrix.clone() if matrix.is_inference() else matrix._version


def _unchanged(matrix: Tensor, seen: int | Tensor | None) -> bool:
    if isinstance(seen, Tensor):
        return torch.equal(matrix, seen)
    return not matrix.is_inference() and matrix._version == seen
