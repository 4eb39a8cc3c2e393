"""What a row is: every position of a datapoint, their mean, the first of them or the last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Points = str | Callable[[Tensor, str], Any]

_NAMES = ("position", "mean", "cls", "last", "flatten")


def points_name(points: Points) -> str:
    """What the table says.

    Args:
        points: ``"position"`` (or ``"token"``), ``"mean"``, ``"cls"``, ``"last"``, ``"flatten"``, or a function.

    Raises:
        ValueError: something else.
    """
    if callable(points):
        return str(getattr(points, "__name__", type(points).__name__))
    name = "position" if points == "token" else points
    if name not in _NAMES:
        raise ValueError(
            f"points is {points!r}; expected 'position' (or 'token'), 'mean', 'cls', 'last', 'flatten', or a function of "
            "a tensor and the name of its layer"
        )
    return name


def one_row_each(x: Tensor, points: str, mask: Tensor | None, where: str) -> Tensor:
    """One row for each datapoint; those of which nothing counts are left out.

    Args:
        x: datapoints, positions, channels: (N, ..., C).
        points: ``"mean"``, ``"cls"``, the first position that counts, or ``"last"``, the last one.
        mask: (N, ...) bool, the positions that count; None for all.
        where: what error messages begin with.

    Returns:
        (rows, C).

    Raises:
        ValueError: the first or last of positions that lie in a plane.
    """
    if points != "mean" and x.ndim > 3:
        raise ValueError(
            f"{where}: points={points!r} takes one of a row of positions, but this output has shape {tuple(x.shape)} "
            "(channels last), whose positions have no first and last; expected points='position' or 'mean', or a function"
        )
    x = x.flatten(1, -2) if x.ndim > 2 else x[:, None]
    if mask is None:
        if points == "mean":
            return _wide(x).mean(1)
        return x[:, 0 if points == "cls" else -1]
    mask = mask.reshape(len(x), -1)
    some = mask.any(1)
    x, mask = x[some], mask[some]
    if points == "mean":
        # What does not count may be NaN, which no factor of 0 removes.
        return torch.where(mask[..., None], _wide(x), 0.0).sum(1) / mask.sum(1, keepdim=True)
    steps = torch.arange(mask.shape[1], device=mask.device)
    if points == "cls":
        chosen = torch.where(mask, steps, mask.shape[1]).amin(1)
    else:
        chosen = torch.where(mask, steps, -1).amax(1)
    return x[torch.arange(len(x), device=x.device), chosen]


def own_rows(points: Callable[[Tensor, str], Any], x: Tensor, layer: str, where: str) -> Tensor:
    """What a function makes of a layer's output.

    Args:
        points: the function.
        x: the output.
        layer: its name.
        where: what error messages begin with.

    Raises:
        TypeError: it gives no tensor.
        ValueError: a tensor that is no matrix.
    """
    rows = points(x, layer)
    if not isinstance(rows, Tensor):
        raise TypeError(f"{where}: points gives a {type(rows).__name__}; expected a tensor of rows by channels")
    if rows.ndim != 2:
        raise ValueError(f"{where}: points gives shape {tuple(rows.shape)}; expected rows by channels")
    return rows


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
