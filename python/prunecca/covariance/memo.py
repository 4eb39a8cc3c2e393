"""What was computed from a matrix, kept as long as the matrix is not written to."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Memo:
    """Results that depend on one tensor, by name.

    Args:
        matrix: the tensor; None for a memo that is to be bound to one later.
    """

    def __init__(self, matrix: Tensor | None = None) -> None:
        self.matrix = matrix
        self._results: dict[str, Any] = {}
        self._version = -1

    def bound_to(self, matrix: Tensor) -> Memo:
        """This memo when it belongs to that very tensor, otherwise a new one that does."""
        return self if self.matrix is matrix else Memo(matrix)

    def recall(self, name: str) -> Any:
        """A result, or None if there is none yet or the tensor was written to since."""
        known = self.matrix is not None and self._version == _version(self.matrix)
        return self._results.get(name) if known else None

    def keep(self, name: str, result: Any) -> None:
        """Remember a result of the tensor as it is now."""
        if self.matrix is None:
            return
        version = _version(self.matrix)
        if version != self._version:
            self._results.clear()
        self._results[name], self._version = result, version


def _version(matrix: Tensor) -> int:
    # Inference tensors carry no version, but cannot be written to outside of inference mode either.
    return 0 if matrix.is_inference() else matrix._version
