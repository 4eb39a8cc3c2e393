"""Every metric against its float64 definition on the full matrices, on well-behaved and degenerate representations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from representations import KINDS, covariance, degenerate, related

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


DEFINITIONS: dict[str, tuple[Callable[..., Any], Callable[[Any, Any, float], float]]] = {
    "cca": (pc.cca, lambda x, y, tol: float(reference.cca(x, y, tol).mean())),
    "svcca": (pc.svcca, lambda x, y, tol: float(reference.cca(x, y, tol, 0.99).mean())),
    "pwcca": (pc.pwcca, lambda x, y, tol: reference.pwcca(x, y, tol)),
    "linear_cka": (pc.linear_cka, lambda x, y, tol: reference.linear_cka(x, y)),
    "nbs": (pc.nbs, lambda x, y, tol: reference.nbs(x, y)),
    "linear_regression": (pc.linear_regression, lambda x, y, tol: reference.linear_regression(x, y)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_agrees_with_the_full_matrix(name: str, kind: str) -> None:
    x, y = degenerate(kind)
    metric, definition = DEFINITIONS[name]
    expected = definition(x, y, 1e-11)
    assert float(metric(covariance(x, y))) == pytest.approx(expected, abs=1e-9)
    assert float(metric(x, y)) == pytest.approx(expected, abs=1e-9)  # float64 arrays, streamed


@pytest.mark.parametrize("name", DEFINITIONS)
def test_float32_activations_agree_with_float64_truth(name: str) -> None:
    x, y = (a.astype(np.float32) for a in related(1500, 48, 32))
    metric, definition = DEFINITIONS[name]
    assert float(metric(x, y)) == pytest.approx(definition(x, y, 1e-6), abs=2e-6)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", [*DEFINITIONS, "procrustes"])
@pytest.mark.parametrize("value", [0.0, -1000.1])
def test_a_layer_that_died_whole_has_no_similarity(name: str, value: float, precision: str) -> None:
    x, y = related(50, 6, 4)
    dead = np.full((50, 5), value)
    metric = getattr(pc, name)
    for a, b in ((x, dead), (dead, y), (dead, dead)):
        assert math.isnan(float(metric(covariance(a, b, precision))))
    if name == "cca":
        result = pc.cca(x.astype(np.float32), dead.astype(np.float32))
        assert (result.kept_x, result.kept_y, result.dead_y) == (6, 0, 5)
        assert result.correlations.numel() == 0


def test_a_batch_of_covariances_equals_one_by_one() -> None:
    pairs = [related(200, 10, 7, noise=noise, seed=seed) for seed, noise in enumerate((0.1, 1.0, 5.0))]
    pairs[1][0][:, 4:] = 0.0  # another rank in the middle of the batch
    pairs[2][1][:] = 1.0
    single = [covariance(x, y) for x, y in pairs]
    fields = ("mean_x", "mean_y", "xx", "yy", "xy", "norms")
    batch = pc.Covariance(200, **{f: torch.stack([getattr(c, f) for c in single]) for f in fields}, precision="float64")
    for name in ("cca", "svcca", "pwcca"):
        result, expected = getattr(pc, name)(batch), [getattr(pc, name)(c) for c in single]
        torch.testing.assert_close(
            result.mean,
            torch.tensor([e.mean for e in expected], dtype=torch.float64),
            equal_nan=True,
            atol=1e-12,
            rtol=0,
        )
        assert result.kept_x.tolist() == [e.kept_x for e in expected]
        assert result.kept_y.tolist() == [e.kept_y for e in expected]
        for row, one in zip(result.correlations, expected, strict=True):
            padded = torch.zeros_like(row)
            padded[: len(one.correlations)] = one.correlations
            torch.testing.assert_close(row, padded, atol=1e-12, rtol=0)
    for name in ("linear_cka", "nbs", "procrustes", "linear_regression"):
        expected = torch.tensor([getattr(pc, name)(c) for c in single], dtype=torch.float64)
        torch.testing.assert_close(getattr(pc, name)(batch), expected, equal_nan=True, atol=1e-12, rtol=0)
    expected = torch.tensor([pc.linear_cka(c, debiased=True) for c in single], dtype=torch.float64)
    torch.testing.assert_close(pc.linear_cka(batch, debiased=True), expected, equal_nan=True, atol=1e-12, rtol=0)


def test_one_reference_serves_a_batch_of_partners() -> None:
    x, first = related(200, 10, 7)
    second = related(200, 10, 7, seed=1)[1]
    singles = [covariance(x, y) for y in (first, second)]
    stacked = {f: torch.stack([getattr(c, f) for c in singles]) for f in ("mean_y", "yy", "xy")}
    batch = pc.Covariance(200, mean_x=singles[0].mean_x, xx=singles[0].xx, **stacked, precision="float64")
    expected = torch.tensor([pc.svcca(c).mean for c in singles], dtype=torch.float64)
    torch.testing.assert_close(pc.svcca(batch).mean, expected, atol=1e-12, rtol=0)
    expected = torch.tensor([pc.nbs(c) for c in singles], dtype=torch.float64)
    torch.testing.assert_close(pc.nbs(batch), expected, atol=1e-12, rtol=0)


def test_wide_members_of_a_batch_are_solved_side_by_side() -> None:
    singles = [covariance(*related(300, 60, 50, seed=seed)) for seed in range(5)]
    fields = ("mean_x", "mean_y", "xx", "yy", "xy")
    batch = pc.Covariance(
        300, **{f: torch.stack([getattr(c, f) for c in singles]) for f in fields}, precision="float64"
    )
    torch.set_num_threads(2)
    for name in ("svcca", "nbs"):
        expected = [float(getattr(pc, name)(c)) for c in singles]
        result = getattr(pc, name)(batch)
        found = result.mean if name == "svcca" else result
        assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert torch.get_num_threads() == 2


@pytest.mark.cuda
@pytest.mark.parametrize("name", [*DEFINITIONS, "procrustes"])
def test_cuda_agrees_with_the_host(name: str) -> None:
    cov = covariance(*related(400, 64, 40))
    moved = pc.Covariance(
        cov.count, *(getattr(cov, f).cuda() for f in ("mean_x", "mean_y", "xx", "yy", "xy")), "float64"
    )
    assert float(getattr(pc, name)(moved)) == pytest.approx(float(getattr(pc, name)(cov)), abs=1e-10)
