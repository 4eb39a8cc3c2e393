"""What independent data give: the formulas of the page on metrics, by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")
N, P, Q = 101, 12, 20
DRAWS = 30


def level(metric: Callable[..., Any], scale: torch.Tensor | None = None) -> float:
    """The mean over independent normal pairs."""
    make = torch.Generator().manual_seed(0)
    found = []
    for _ in range(DRAWS):
        x, y = (torch.randn(N, width, generator=make, dtype=torch.float64) for width in (P, Q))
        found.append(float(metric(x if scale is None else x * scale, y)))
    return sum(found) / DRAWS


EXACT = {
    "pillai's trace": (lambda x, y: pc.pillai(x, y, normalised=False), P * Q / (N - 1)),
    "pillai": (pc.pillai, max(P, Q) / (N - 1)),
    "mean_squared_cca": (pc.mean_squared_cca, max(P, Q) / (N - 1)),
    "yanai": (pc.yanai, math.sqrt(P * Q) / (N - 1)),
    "linear_regression of y": (pc.linear_regression, P / (N - 1)),
    "linear_regression of x": (lambda x, y: pc.linear_regression(x, y, target="x"), Q / (N - 1)),
    "linear_cka": (pc.linear_cka, math.sqrt(P * Q / ((N + P) * (N + Q)))),
    "gulp": (lambda x, y: pc.gulp(x, y, ridge=1e-9), math.sqrt(P + Q - 2 * P * Q / (N - 1))),
}


@pytest.mark.parametrize("name", EXACT)
def test_expected_values(name: str) -> None:
    metric, expected = EXACT[name]
    assert level(metric) == pytest.approx(expected, rel=0.05)


def test_linear_cka_goes_by_the_effective_dimension() -> None:
    scale = torch.linspace(1, 5, P, dtype=torch.float64)
    d = float(scale.square().sum() ** 2 / scale.pow(4).sum())
    assert level(pc.linear_cka, scale) == pytest.approx(math.sqrt(d * Q / ((N + d) * (N + Q))), rel=0.05)


@pytest.mark.parametrize(
    "metric",
    [lambda x, y: pc.linear_cka(x, y, debiased=True), pc.rsa, lambda x, y: pc.minibatch_cka(x, y, batch_size=25)],
    ids=["debiased_cka", "rsa", "minibatch_cka"],
)
def test_unbiased_ones_are_near_zero(metric: Callable[..., Any]) -> None:
    assert abs(level(metric)) < 0.02


BOUNDS = {
    "cca": (pc.cca, math.sqrt(max(P, Q) / (N - 1))),
    "pwcca": (pc.pwcca, math.sqrt(max(P, Q) / (N - 1))),
    "nbs": (pc.nbs, math.sqrt(min(P, Q) / (N - 1))),
    "procrustes": (pc.procrustes, min(P, Q) / (N - 1)),
    "hard_matching": (pc.hard_matching, math.sqrt(2 * math.log(Q) / (N - 1))),
    "permutation_matching": (pc.permutation_matching, math.sqrt(2 * math.log(Q) / (N - 1))),
    "soft_matching": (pc.soft_matching, math.sqrt(2 * math.log(max(P, Q)) / (N - 1))),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_are_near(name: str) -> None:
    metric, bound = BOUNDS[name]
    assert 0.5 * bound < level(metric) < bound


def test_no_unit_has_a_match() -> None:
    assert level(pc.maximum_match) == 0.0
