"""Datapoints by channels in float64: what every metric of rows starts from."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ..covariance.covariance import Covariance, Layout
from ..covariance.view import View

Distance = Literal["euclidean", "cosine", "correlation"]
_NO_DIRECTION = 1e-13  # of the norm of a row: what rounding leaves of a constant row less its mean


def paired_rows(x: Any, y: Any, metric: str, layout: Layout = "infer") -> tuple[Tensor, Tensor]:
    """Two arrays as (N, Cx) and (N, Cy) float64 matrices on the device of the first.

    Args:
        x: an array of such a shape as ``layout`` allows; positions are rows too.
        y: an array with the same rows.
        metric: its name, for error messages.
        layout: as in ``cca``.

    Raises:
        TypeError: a ``Covariance``, or no arrays.
        ValueError: rows that differ, fewer than two of them, no channels, NaN or infinity.
    """
    if isinstance(x, Covariance):
        raise TypeError(f"{metric} was given a Covariance, which does not hold the rows that it needs; give two arrays")
    if y is None:
        raise TypeError(f"{metric} was given one {type(x).__name__}; expected two arrays with the same rows")
    first, second = View.of(x, "x", layout), View.of(y, "y", layout)
    if first.positions() != second.positions():
        raise ValueError(
            f"x has shape {tuple(first.tensor.shape)} and y has {tuple(second.tensor.shape)}; "
            "both must have the same datapoints and positions"
        )
    for view in (first, second):
        if not view.channels:
            raise ValueError(f"{view.name} has shape {tuple(view.tensor.shape)}; expected at least one channel")
    if first.rows < 2:
        raise ValueError(f"{first.rows} datapoints were given; expected at least 2")
    return _matrix(first), _matrix(second).to(first.tensor.device)


def _matrix(view: View) -> Tensor:
    rows = view.tensor.movedim(view.channel_axis, -1).reshape(-1, view.channels).double()
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"{view.name} holds NaN or infinity; expected finite activations")
    return rows


def centred(rows: Tensor) -> Tensor:
    """The rows less their mean, times the power of two that brings the largest number near 1, so that squares fit."""
    rows = rows * scale_of(rows)  # first, for a sum of rows may leave the range
    rows = rows - rows.mean(0)
    return rows * scale_of(rows)


def directions(rows: Tensor, distance: Distance = "cosine") -> Tensor:
    """The rows scaled to unit length; half their squared distances are one minus their cosines.

    Rows of zeros have no direction. They count as one of their own, at a right angle to all others, which is a further
    column.

    Args:
        rows: (N, C) float64.
        distance: ``"correlation"`` first takes the mean of each row from it.
    """
    rows = rows / _largest(rows)
    if distance == "correlation":
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        rows = rows - rows.mean(1, keepdim=True)
        rows = torch.where(torch.linalg.vector_norm(rows, dim=1, keepdim=True) > _NO_DIRECTION * norms, rows, 0.0)
        rows = rows / _largest(rows)
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return torch.cat([rows / torch.where(norms > 0, norms, 1.0), (norms == 0).double()], 1)


def placed(rows: Tensor, distance: Distance) -> Tensor:
    """Points whose Euclidean distances order pairs of rows as ``distance`` does.

    Raises:
        ValueError: another word for a distance.
    """
    if distance not in ("euclidean", "cosine", "correlation"):
        raise ValueError(f"distance is {distance!r}; expected 'euclidean', 'cosine' or 'correlation'")
    return centred(rows) if distance == "euclidean" else directions(rows, distance)


def scale_of(rows: Tensor) -> float:
    """The power of two by which the largest number comes near 1."""
    size = float(rows.abs().max())
    return math.ldexp(1.0, max(-1000, min(1000, -math.frexp(size)[1]))) if size else 1.0


def _largest(rows: Tensor) -> Tensor:
    size = rows.abs().amax(1, keepdim=True)
    return torch.where(size > 0, size, 1.0)
