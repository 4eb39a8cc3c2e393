"""Pairs of representations, well-behaved and degenerate, and their covariances in plain float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import reference
import torch

import prunecca as pc
from prunecca.similarity.registry import find_metrics

OF_ONE_PASS = [name for name, score in find_metrics(list(pc.METRICS)).items() if score.metric.takes != "batches"]
OF_COVARIANCES = [name for name, score in find_metrics(list(pc.METRICS)).items() if score.metric.takes == "covariance"]


def covariance(x: Any, y: Any, precision: str = "float64") -> pc.Covariance:
    parts = reference.covariance(x, y)
    count = parts.pop("count")
    return pc.Covariance(count, **{k: torch.from_numpy(np.asarray(v)) for k, v in parts.items()}, precision=precision)


def related(n: int, cx: int, cy: int, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two representations that share some directions, with unequal channel scales and means."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((n, min(cx, cy)))
    x = hidden @ rng.standard_normal((min(cx, cy), cx)) + noise * rng.standard_normal((n, cx))
    y = hidden @ rng.standard_normal((min(cx, cy), cy)) + noise * rng.standard_normal((n, cy))
    return x * rng.uniform(0.5, 2, cx) + rng.normal(0, 3, cx), y * rng.uniform(0.5, 2, cy) - 1


def degenerate(kind: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = related(300, 12, 9)
    if kind == "rank-deficient":
        x[:, 6:] = x[:, :6] @ np.random.default_rng(1).standard_normal((6, 6))
    elif kind == "dead":
        x[:, [0, 5, 11]] = 0.0
    elif kind == "constant":
        y[:, [2, 3]] = -10.1
    elif kind == "duplicated":
        x[:, 6:] = x[:, :6]
    elif kind == "more channels than datapoints":
        return related(20, 33, 25)
    elif kind == "different widths":
        return related(400, 3, 40)
    elif kind == "one channel":
        return related(100, 1, 1)
    return x, y


KINDS = [
    "ordinary",
    "rank-deficient",
    "dead",
    "constant",
    "duplicated",
    "more channels than datapoints",
    "different widths",
    "one channel",
]
