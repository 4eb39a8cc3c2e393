"""Activations, their covariance as it is streamed, and the float64 pass that it is measured against."""

from __future__ import annotations

import numpy as np
import torch

import prunecca as pc

FIELDS = ("mean_x", "mean_y", "xx", "yy", "xy", "norms")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def rows_of(x: torch.Tensor) -> np.ndarray:
    """The (N * positions, C) float64 matrix that an activation stands for."""
    matrix = x.movedim(1, -1).reshape(-1, x.shape[1]) if x.ndim > 2 else x
    return matrix.double().numpy()


def reference(x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    a, b = rows_of(x), rows_of(y)
    a, b = a - a.mean(0), b - b.mean(0)
    n = len(a) - 1
    return {"xx": a.T @ a / n, "yy": b.T @ b / n, "xy": a.T @ b / n}


def error(cov: pc.Covariance, x: torch.Tensor, y: torch.Tensor) -> float:
    """Largest relative error; of xy relative to the norms of xx and yy, which bound it."""
    want = reference(x, y)
    norm = {name: np.linalg.norm(want[name]) for name in ("xx", "yy")}
    scale = {**norm, "xy": np.sqrt(norm["xx"] * norm["yy"])}
    return max(np.linalg.norm(getattr(cov, name).numpy() - want[name]) / scale[name] for name in want)


def correlated(n: int, cx: int, cy: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, cx) * torch.linspace(0.5, 2, cx) + torch.randn(cx)
    y = x @ torch.randn(cx, cy) / cx**0.5 + 0.5 * torch.randn(n, cy) - 1
    return x.to(dtype), y.to(dtype)


def covariance(*batches, **options) -> pc.Covariance:
    acc = pc.StreamingCovariance(**options)
    for batch in batches:
        acc.update(*batch)
    return acc.finalize()


def differences(cov: pc.Covariance, want: pc.Covariance) -> dict[str, float]:
    """Of every tensor, relative to its norm."""
    found = {}
    for name in FIELDS:
        a, b = getattr(cov, name), getattr(want, name)
        if a is not None:
            found[name] = float((a - b).norm() / b.norm())
    return found


def streamed(*batches, norms=True, **options) -> pc.Covariance:
    """The covariance of batches (x, y, options of ``update``)."""
    acc = pc.StreamingCovariance(norms=norms)
    for x, y, given in batches:
        acc.update(x, y, **options, **given)
    return acc.finalize()
