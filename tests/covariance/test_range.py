"""Activations of any size: squares that float32 or float64 does not hold, means far away, and batches of other sizes."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streams import correlated

import prunecca as pc
from prunecca.covariance import cuda
from prunecca.covariance.accumulator import CovarianceAccumulator
from prunecca.covariance.view import View

ROWS = 3000
as_view = View.of


def truth(x: torch.Tensor, y: torch.Tensor, scale: float = 1.0) -> tuple[Any, Any]:
    """Covariances of the very numbers, brought near 1 by a power of two in float64 first."""
    a, b = ((t.double() * scale).numpy() for t in (x, y))
    whole = np.cov(np.hstack([a, b]).T)
    return whole[: x.shape[1], : x.shape[1]], whole[: x.shape[1], x.shape[1] :]


def relative(got: torch.Tensor, want: Any, by: Any) -> float:
    """The largest error of an entry, relative to the deviations of its two channels."""
    d = np.sqrt(np.diag(by))
    return float(
        np.abs(got.numpy() - want).max() if got.numel() == 0 else (np.abs(got.numpy() - want) / np.outer(d, d)).max()
    )


def streamed(x: torch.Tensor, y: torch.Tensor, sizes: tuple[int, ...] = (1000, 1500, 500), **options: Any) -> Any:
    acc = pc.StreamingCovariance(**options)
    for a, b in zip(x.split(sizes), y.split(sizes), strict=True):
        acc.update(a, b)
    return acc.finalize()


@pytest.mark.parametrize("exponent", [-145, -130, -110, -80, -60, -40, 0, 40, 60, 63, 90, 120])
@pytest.mark.parametrize("norms", [False, True])
def test_float32_of_any_size(exponent: int, norms: bool, level: str) -> None:
    x, y = correlated(ROWS, 6, 5)
    x, y = (torch.ldexp(t.double(), torch.tensor(exponent)).float() for t in (x, y))
    cov = streamed(x, y, norms=norms)
    want, _ = truth(x, y, 2.0**-exponent)
    assert relative(cov.xx * 2.0 ** (-2 * exponent), want, want) < 2e-7
    assert pc.cca(cov).dead_x == 0
    near = streamed(*(torch.ldexp(t.double(), torch.tensor(-exponent)) for t in (x, y)), norms=norms)
    for name in ["cca", "svcca", "pwcca", "linear_cka", "nbs", "procrustes", "linear_regression"]:
        metric = getattr(pc, name)
        assert float(metric(cov)) == pytest.approx(float(metric(near)), abs=1e-6)
        assert float(metric(x, y)) == pytest.approx(float(metric(near)), abs=1e-6)
    if norms:
        debiased = pc.linear_cka(near, debiased=True)
        assert pc.linear_cka(cov, debiased=True) == pytest.approx(debiased, abs=1e-6)


@pytest.mark.parametrize("exponent", [-1000, -700, -330, -150, 150, 400, 500, 1000])
def test_float64_of_any_size(exponent: int) -> None:
    x, y = (t.double() for t in correlated(ROWS, 6, 5))
    a, b = (torch.ldexp(t, torch.tensor(exponent)) for t in (x, y))
    for name in ["cca", "svcca", "pwcca", "linear_cka", "nbs", "procrustes", "linear_regression"]:
        metric = getattr(pc, name)
        right = float(metric(x, y))
        assert float(metric(a, b)) == pytest.approx(right, abs=1e-12)
        assert float(metric(a, y)) == pytest.approx(right, abs=1e-12)
    assert pc.linear_cka(a, y, debiased=True) == pytest.approx(pc.linear_cka(x, y, debiased=True), abs=1e-12)


@pytest.mark.parametrize("exponent", [-600, 600])
def test_a_covariance_that_float64_does_not_hold_is_refused_where_it_is_asked_for(exponent: int) -> None:
    x, y = (t.double() for t in correlated(ROWS, 3, 2))
    acc = pc.StreamingCovariance()
    acc.update(torch.ldexp(x, torch.tensor(exponent)), y)
    with pytest.raises(ValueError, match=r"leaves the range of float64; scale them, or give them to a metric directly"):
        acc.finalize()


@pytest.mark.parametrize("exponent", [-480, -300, 300, 480])
def test_a_covariance_that_float64_holds_is_that_of_the_activations(exponent: int) -> None:
    x, y = (t.double() for t in correlated(ROWS, 3, 2))
    cov = streamed(torch.ldexp(x, torch.tensor(exponent)), y)
    near = streamed(x, y)
    torch.testing.assert_close(cov.xx, torch.ldexp(near.xx, torch.tensor(2 * exponent)), rtol=1e-13, atol=0)
    torch.testing.assert_close(cov.xy, torch.ldexp(near.xy, torch.tensor(exponent)), rtol=1e-11, atol=0)
    torch.testing.assert_close(cov.mean_x, torch.ldexp(near.mean_x, torch.tensor(exponent)), rtol=1e-13, atol=0)
    torch.testing.assert_close(cov.yy, near.yy, rtol=1e-13, atol=0)


@pytest.mark.parametrize("factor", [1e-40, 1e-30, 1e-20, 1e20, 1e30, 1e37])
def test_one_channel_of_another_size(factor: float, level: str) -> None:
    x, y = correlated(ROWS, 6, 5)
    right = pc.cca(x.double(), y.double())
    other = x.clone()
    other[:, 3] = (x[:, 3].double() * factor).float()
    got = pc.cca(streamed(other, y))
    assert (got.kept_x, got.dead_x) == (6, 0)
    # Few bits are left of numbers near the smallest.
    torch.testing.assert_close(got.correlations, right.correlations, atol=1e-3 if factor < 1e-37 else 1e-6, rtol=0)


@pytest.mark.parametrize("sizes", [(0.0, 1e-25), (1.0, 1e-25), (1e-25, 1.0), (1.0, 1e30), (1e30, 1e-30), (0.0, 1e33)])
@pytest.mark.parametrize("apart", [False, True])
def test_batches_of_other_sizes(sizes: tuple[float, float], apart: bool, level: str) -> None:
    x, y = correlated(2 * ROWS, 4, 3)
    parts = []
    for k, size in enumerate(sizes):
        rows = slice(k * ROWS, (k + 1) * ROWS)
        parts.append([(t[rows].double() * size).float() for t in (x, y)])
    acc = pc.StreamingCovariance(norms=True)
    for a, b in parts:
        if apart:
            acc.update_reference(a)
            acc.update_candidate(0, a, b)
        else:
            acc.update(a, b)
    cov: Any = acc.finalize()[0] if apart else acc.finalize()  # type: ignore[index]
    whole = [torch.cat([p[k] for p in parts]) for k in (0, 1)]
    largest = max(sizes)
    want, cross = truth(*whole, 1 / largest)
    assert relative(cov.xx / largest**2, want, want) < 2e-7
    d = np.sqrt(np.outer(np.diag(want), np.diag(truth(whole[1], whole[0], 1 / largest)[0])))
    assert (np.abs(cov.xy.numpy() / largest**2 - cross) / d).max() < 2e-7


@pytest.mark.parametrize("sizes", [(0.0, 1e-200), (1.0, 1e-200), (1e-200, 1.0), (1.0, 1e200), (1e200, 1e-200)])
@pytest.mark.parametrize("merged", [False, True])
def test_float64_batches_of_other_sizes(sizes: tuple[float, float], merged: bool) -> None:
    x, y = (t.double() for t in correlated(2 * ROWS, 4, 3))
    acc = [CovarianceAccumulator(norms=True) for _ in range(2)]
    for k, size in enumerate(sizes):
        rows = slice(k * ROWS, (k + 1) * ROWS)
        target = acc[k if merged else 0]
        target.add(as_view(x[rows] * size, "x"), [as_view(y[rows] * size, "y")])
    if merged:
        acc[0].merge(acc[1])
    cov = acc[0].finalize(rescale=True)[0]
    largest = max(sizes)
    scaled = [torch.cat([t[:ROWS] * (sizes[0] / largest), t[ROWS:] * (sizes[1] / largest)]) for t in (x, y)]
    for name in ["cca", "linear_cka", "nbs"]:
        metric = getattr(pc, name)
        assert float(metric(cov)) == pytest.approx(float(metric(*scaled)), abs=1e-12)
    debiased = pc.linear_cka(*scaled, debiased=True)
    assert pc.linear_cka(cov, debiased=True) == pytest.approx(debiased, abs=1e-12)


@pytest.mark.parametrize(
    ("offset", "deviation"), [(1e8, 1e-3), (1e12 + 12345.67, 1.0), (1e15 + 12345, 1.0), (-3e14, 7.0)]
)
@pytest.mark.parametrize("sizes", [(1000,), (100, 900), (700, 300)])
def test_a_float64_mean_is_kept(offset: float, deviation: float, sizes: tuple[int, ...]) -> None:
    x = offset + deviation * np.random.default_rng(1).standard_normal((1000, 2))
    cov = streamed(torch.from_numpy(x), torch.from_numpy(x), sizes)
    values = [Fraction(v) for v in x[:, 0].tolist()]
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    assert float(cov.xx[0, 0]) == pytest.approx(float(variance), rel=1e-12)
    result = pc.cca(x, x)
    assert (result.dead_x, result.mean) == (0, pytest.approx(1.0, abs=1e-9))


@pytest.mark.parametrize("step", [3.0, 30.0, 1000.0])
@pytest.mark.parametrize("apart", [False, True])
def test_means_that_drift_cost_nothing(step: float, apart: bool, level: str) -> None:
    """A stream that is not shuffled: the means of its batches walk away from that of the first."""
    torch.manual_seed(0)
    x = torch.randn(40, 1000, 3) + torch.linspace(0, 1, 40)[:, None, None] * step
    x[1:] += step  # and jump
    y = x @ torch.randn(3, 2) + torch.randn(40, 1000, 2)
    acc = pc.StreamingCovariance(norms=True)
    exact = pc.StreamingCovariance(precision="float64", norms=True)
    for a, b in zip(x, y, strict=True):
        if apart:
            acc.update_reference(a)
            acc.update_candidate(0, a, b)
        else:
            acc.update(a, [b])
        exact.update(a, [b])
    (got,), (want,) = acc.finalize(), exact.finalize()  # type: ignore[misc]
    d = want.xx.diagonal().sqrt()
    assert float(((got.xx - want.xx) / torch.outer(d, d)).abs().max()) < 1e-7
    torch.testing.assert_close(got.norms, want.norms, rtol=1e-6, atol=0)
    assert float(got.error_x.max()) <= 6e-7, "a mean is never far from the shift"


def test_the_error_of_a_variance_is_told_per_channel() -> None:
    x, _ = correlated(ROWS, 3, 2)
    x[:, 1] = 4.0
    cov = streamed(x, x)
    assert cov.error_x.shape == (3,)
    assert cov.error_x[1] == math.inf
    assert (cov.error_x[[0, 2]] < 2e-7).all()
    exact = streamed(x.double(), x.double())
    assert (exact.error_x[[0, 2]] < 2e-14).all()


def test_a_saved_state_of_any_size_goes_on(tmp_path: Path) -> None:
    x, y = (t.double() for t in correlated(2000, 4, 3))
    a, b = x * 1e-120, y * 1e120
    whole, first = pc.StreamingCovariance(), pc.StreamingCovariance()
    for rows in (slice(0, 900), slice(900, 2000)):
        whole.update(a[rows], b[rows])
    first.update(a[:900], b[:900])
    first.save(tmp_path / "state.safetensors")
    again = pc.StreamingCovariance.load(tmp_path / "state.safetensors")
    again.update(a[900:], b[900:])
    assert torch.equal(again.finalize().xy, whole.finalize().xy)  # type: ignore[union-attr]


def test_nothing_is_said_on_the_way() -> None:
    x, y = correlated(ROWS, 6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for factor in (1e-40, 1e-25, 1e25):
            pc.cca((x.double() * factor).float(), y)


def test_squares_that_a_device_has_lost_are_an_error() -> None:
    """Nothing waits for a device between batches: what the host would have taken again is found at the end."""
    x, y = correlated(ROWS, 3, 2)
    acc = CovarianceAccumulator()
    acc.add(as_view(x, "x"), [as_view(y, "y")])
    acc.members[0].watch = cuda.Watch(torch.device("cpu"))
    assert acc.finalize()[0].count == ROWS
    acc.members[0].scatter.products[1, 1] = 1e-38
    with pytest.raises(ValueError, match=r"channel 1 are so small after the first batch .* precision='float64'"):
        acc.finalize()
