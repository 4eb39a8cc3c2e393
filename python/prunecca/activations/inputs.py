"""Inputs from whatever a loader gives, up to a limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

# Inputs per batch where a tensor is given in place of a loader; 128 took 7 % longer on a CPU (cifar10 network).
_BATCH = 64


def input_batches(loader: Iterable[Any], most: int | None, share: tuple[int, int]) -> Iterator[tuple[int, Tensor, int]]:
    """Number, inputs and the count of inputs seen up to there, of the first batch and of this process's share."""
    seen = 0
    for number, batch in enumerate(_iterable(loader)):
        inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(inputs, Tensor) or inputs.ndim == 0:
            raise TypeError(
                f"batch {number} of the loader is a {type(batch).__name__}"
                + (f" that starts with a {type(inputs).__name__}" if inputs is not batch else "")
                + "; expected a tensor of inputs, or a tuple or list that starts with one"
            )
        inputs = inputs if most is None else inputs[: most - seen]
        seen += len(inputs)
        if len(inputs) and (seen == len(inputs) or number % share[1] == share[0]):
            # A model may overwrite its inputs, which those of torch.inference_mode do not allow outside of it.
            yield number, inputs.clone() if inputs.is_inference() else inputs, seen
        if most is not None and seen >= most:
            return


def total_inputs(loader: Iterable[Any], most: int | None) -> int | None:
    """How many inputs there will be, where that is known beforehand."""
    data: Any = loader if isinstance(loader, Tensor) else getattr(loader, "dataset", None)
    size = len(data) if hasattr(data, "__len__") else None
    return most if size is None else size if most is None else min(size, most)


def _iterable(loader: Iterable[Any]) -> Iterable[Any]:
    return torch.split(loader, _BATCH) if isinstance(loader, Tensor) else loader
