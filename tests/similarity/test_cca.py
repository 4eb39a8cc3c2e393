"""CCA, SVCCA and PWCCA: which directions take part, and how their correlations are averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from representations import covariance, degenerate, related

import prunecca as pc
from prunecca.similarity.spectrum import default_tolerance

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("kind", "kept_x", "kept_y", "dead_x", "dead_y"),
    [
        ("ordinary", 12, 9, 0, 0),
        ("rank-deficient", 6, 9, 0, 0),
        ("dead", 9, 9, 3, 0),
        ("constant", 12, 7, 0, 2),
        ("duplicated", 6, 9, 0, 0),
        ("more channels than datapoints", 19, 19, 0, 0),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranks_and_dead_channels_are_reported(
    kind: str, kept_x: int, kept_y: int, dead_x: int, dead_y: int, dtype: Any
) -> None:
    x, y = degenerate(kind)
    result = pc.cca(x.astype(dtype), y.astype(dtype))
    assert (result.kept_x, result.kept_y) == (kept_x, kept_y)
    assert (result.dead_x, result.dead_y) == (dead_x, dead_y)
    assert result.correlations.shape == (min(kept_x, kept_y),)
    assert result.averaged == min(kept_x, kept_y)


def test_svcca_keeps_the_smallest_number_of_directions_that_hold_the_variance() -> None:
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.standard_normal((500, 6)) - 0.0)[0]
    x = np.linalg.qr(reference.centred(x))[0] * np.sqrt([50.0, 30.0, 15.0, 4.5, 0.4, 0.1])
    cov = covariance(x, x)
    kept = [pc.svcca(cov, variance=v).kept_x for v in (0.3, 0.75, 0.9499, 0.99, 0.9985, 1.0)]
    assert kept == [1, 2, 3, 4, 5, 6]


def test_trim_averages_the_correlations_that_hold_the_given_sum() -> None:
    x, y = related(500, 20, 20, noise=3.0)
    correlations = reference.cca(x, y, 1e-11)
    for trim in (0.5, 0.98, 1.0):
        result = pc.cca(covariance(x, y), trim=trim)
        assert result.mean == pytest.approx(reference.trimmed_mean(correlations, trim), abs=1e-9)
        assert result.trim == trim
    assert pc.cca(covariance(x, y), trim=0.98).averaged < 20
    assert pc.cca(covariance(x, y)).averaged == 20


def test_pwcca_weights_either_side() -> None:
    x, y = related(300, 8, 13)
    cov = covariance(x, y)
    assert pc.pwcca(cov, side="x").mean == pytest.approx(reference.pwcca(x, y, 1e-11), abs=1e-9)
    assert pc.pwcca(cov, side="y").mean == pytest.approx(reference.pwcca(y, x, 1e-11), abs=1e-9)
    weights = pc.pwcca(cov, side="y").weights
    assert weights is not None
    assert weights.shape == (8,)
    assert float(weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["cca", "pwcca"])
def test_both_routes_to_the_singular_values_agree(name: str) -> None:
    x, y = related(300, 8, 13)
    exact, fast = (getattr(pc, name)(covariance(x, y, p), tol=1e-9) for p in ("float64", "float32"))
    torch.testing.assert_close(exact.correlations, fast.correlations, atol=1e-12, rtol=0)
    assert exact.mean == pytest.approx(fast.mean, abs=1e-12)


def test_tolerance_decides_the_rank() -> None:
    x = np.diag([1.0, 1e-2, 1e-4]) @ np.random.default_rng(0).standard_normal((3, 200))
    x = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]).T / np.sqrt([3, 2, 6]) @ x  # in directions that are no channels
    cov = covariance(x.T, x.T)
    assert [pc.cca(cov, tol=tol).kept_x for tol in (1e-1, 1e-6, 1e-11)] == [1, 2, 3]
    assert pc.cca(cov).tol == (default_tolerance("float64", 3),) * 2
    assert pc.cca(covariance(x.T, x.T, "float32")).tol[0] >= 1e-7
