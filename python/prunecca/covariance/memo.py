"""What was computed from a matrix, kept as long as the matrix is not written to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

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
        self._version = -1

    def bound_to(self, matrix: Tensor) -> Memo[Result]:
        """This memo when it belongs to that very tensor, otherwise a new one that does."""
        return self if self.matrix is matrix else Memo(matrix)

    def recall(self) -> Result | None:
        """The result, unless there is none yet or the tensor was written to since."""
        known = self.matrix is not None and self._version == _version(self.matrix)
        return self._result if known else None

    def keep(self, result: Result) -> Result:
        """Remember the result of the tensor as it is now."""
        if self.matrix is not None:
            self._result, self._version = result, _version(self.matrix)
        return result

    def get(self, compute: Callable[[Tensor], Result]) -> Result:
        """The result, computed only when it is not known."""
        if self.matrix is None:
            raise ValueError("the memo belongs to no matrix; expected one that was bound to a matrix")
        known = self.recall()
        return self.keep(compute(self.matrix)) if known is None else known


def _version(matrix: Tensor) -> int:
    # Inference tensors carry no version, but cannot be written to outside of inference mode either.
    return 0 if matrix.is_inference() else matrix._version
