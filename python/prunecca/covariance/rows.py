"""Which rows of an activation count, and how much: masks and weights of a batch, in the order of its rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .covariance import Layout


def kept_rows(rows: Any, shape: tuple[int, ...], axis: int, layout: Layout, where: str = "") -> Tensor:
    """The numbers of the rows that count.

    Args:
        rows: a boolean array, or one of zeros and ones, of a shape that ``in_order`` takes.
        shape: of the activation.
        axis: its dimension that holds the channels.
        layout: of the activation.
        where: what error messages begin with.

    Returns:
        Ascending row numbers, (K,) int64.

    Raises:
        TypeError: an array of other numbers.
        ValueError: a shape that does not fit.
    """
    mask = in_order(as_mask(rows, f"{where}rows"), shape, axis, layout, f"{where}rows")
    return mask.nonzero().squeeze(1)


def row_weights(weights: Any, shape: tuple[int, ...], axis: int, layout: Layout, where: str = "") -> Tensor:
    """The weight of every row, (rows,) float64.

    Args:
        weights: finite numbers from 0 on, of a shape that ``in_order`` takes.
        shape: of the activation.
        axis: its dimension that holds the channels.
        layout: of the activation.
        where: what error messages begin with.

    Raises:
        TypeError: no array of real numbers.
        ValueError: a negative weight, one that is not finite, or a shape that does not fit.
    """
    tensor = _tensor(weights, f"{where}weights", "numbers, one for each row")
    if tensor.is_complex():
        raise TypeError(f"{where}weights has dtype {tensor.dtype}; expected real numbers, one for each row")
    ordered = in_order(tensor.detach().double(), shape, axis, layout, f"{where}weights")
    wrong = ~(torch.isfinite(ordered) & (ordered >= 0))
    if bool(wrong.any()):
        first = float(ordered[wrong.nonzero()[0, 0]])
        raise ValueError(f"{where}weights holds {first}; expected finite numbers from 0 on, one for each row")
    return ordered


def as_mask(value: Any, name: str) -> Tensor:
    """A boolean tensor of booleans, or of zeros and ones.

    Args:
        value: a torch or NumPy array, or a list.
        name: what error messages call it.

    Raises:
        TypeError: other numbers.
    """
    tensor = _tensor(value, name, "a boolean for each row, True for those that count").detach()
    if tensor.dtype == torch.bool:
        return tensor
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    if whole and bool(((tensor == 0) | (tensor == 1)).all()):
        return tensor != 0
    what = f"{tensor.dtype}" + (" with other numbers than 0 and 1" if whole else "")
    raise TypeError(f"{name} holds {what}; expected booleans, True for the rows that count")


def in_order(value: Tensor, shape: tuple[int, ...], axis: int, layout: Layout, name: str) -> Tensor:
    """One value per row of an activation, in the order of its rows, from one per datapoint, position or row.

    Args:
        value: (N,) for datapoints; datapoints and then positions, as (N, L) or (N, H, W); or flat, (rows,).
        shape: of the activation.
        axis: its dimension that holds the channels.
        layout: of the activation; where it has another first letter than ``n``, datapoints come in that dimension.
        name: what error messages call it.

    Returns:
        (rows,), flat.

    Raises:
        ValueError: another shape.
    """
    own = tuple(size for dimension, size in enumerate(shape) if dimension != axis)  # as the rows nest
    letters = "" if layout in ("infer", "auto") else layout.replace("c", "")
    first = max(0, letters.find("n"))  # where datapoints lie among them
    batched = "n" in letters or not letters
    given = (own[first], *own[:first], *own[first + 1 :]) if own else ()  # datapoints first, as a mask has them
    total = 1
    for size in own:
        total *= size
    if value.shape == given:
        return value.movedim(0, first).reshape(-1) if value.ndim else value.reshape(-1)
    if batched and value.ndim == 1 and len(value) == given[0]:
        return value.reshape([-1 if d == first else 1 for d in range(len(own))]).expand(own).reshape(-1)
    if value.ndim == 1 and len(value) == total:
        return value
    datapoints = f"{given[:1]} for datapoints, " if batched and len(given) > 1 else ""
    raise ValueError(
        f"{name} has shape {tuple(value.shape)} for an activation of shape {tuple(shape)}; expected "
        f"{datapoints}{given} or ({total},)"
    )


def _tensor(value: Any, name: str, expected: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        if hasattr(value, "__cuda_array_interface__"):
            return torch.as_tensor(value)
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is a {type(value).__name__}; expected {expected}") from error
