"""What must not depend on the scale of a channel, or of a whole representation, does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from representations import OF_COVARIANCES, covariance, related

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


def qr_truth(x: Any, y: Any) -> tuple[Any, float]:
    """Canonical correlations and R squared by QR of standardised columns (Bjorck and Golub 1973)."""

    def basis(v: Any) -> Any:
        v = v.astype(float) - v.mean(0, dtype=float)
        return np.linalg.qr(v / v.std(0))[0]

    q, r = basis(x), basis(y)
    centred = y.astype(float) - y.mean(0, dtype=float)
    return (
        np.linalg.svd(q.T @ r, compute_uv=False),
        float(np.linalg.norm(q.T @ centred) ** 2 / np.linalg.norm(centred) ** 2),
    )


@pytest.mark.parametrize("wider", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [2000, 6000])  # float64 products, and float32 where the dtype allows
def test_one_massive_channel_hides_none_of_the_others(wider: float, dtype: Any, rows: int) -> None:
    x, y = related(rows, 64, 32, noise=4.0)
    x[:, 17] *= wider
    x, y = x.astype(dtype), y.astype(dtype)
    correlations, explained = qr_truth(x, y)
    result = pc.cca(x, y)
    assert (result.kept_x, result.kept_y) == (64, 32)
    np.testing.assert_allclose(result.correlations, correlations, atol=3e-6 if dtype == np.float32 else 1e-9)
    assert pc.linear_regression(x, y) == pytest.approx(explained, abs=1e-6)
    assert pc.linear_regression(x, y).kept == 64
    assert pc.pwcca(x, y, side="y").mean == pytest.approx(pc.pwcca(x / x.std(0), y, side="y").mean, abs=1e-5)
    # All the variance keeps all directions; 99 % of it is in the one channel, which is what SVCCA asks for.
    assert pc.svcca(x, y, variance=1.0).mean == pytest.approx(correlations.mean(), abs=1e-6)
    assert pc.svcca(x, y).kept_x == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0.0, 8.0), precision=st.sampled_from(["float32", "float64"]))
def test_scales_of_channels_change_nothing(seed: int, spread: float, precision: str) -> None:
    rng = np.random.default_rng(seed)
    x, y = related(400, 7, 5, seed=seed % 1000)
    d, e = (10 ** rng.uniform(-spread, spread, n) for n in (7, 5))
    plain, scaled = covariance(x, y, precision), covariance(x * d, y * e, precision)
    for name in ("cca", "svcca"):
        options = {"variance": 1.0} if name == "svcca" else {}
        got, want = (getattr(pc, name)(cov, **options) for cov in (scaled, plain))
        assert (got.kept_x, got.kept_y) == (want.kept_x, want.kept_y)
        torch.testing.assert_close(got.correlations, want.correlations, atol=1e-9, rtol=0)
    fit = pc.linear_regression(covariance(x * d, y, precision))
    assert fit == pytest.approx(pc.linear_regression(plain), abs=1e-9)
    assert pc.pwcca(covariance(x, y * e, precision)).mean == pytest.approx(pc.pwcca(plain).mean, abs=1e-9)


@pytest.mark.parametrize("factor", [2.0**-500, 1e-90, 1e-41, 1e-5, 1.0, 3e7, 1e41, 1e70, 2.0**480])
@pytest.mark.parametrize("batched", [False, True])
def test_no_metric_depends_on_the_scale_of_a_covariance(factor: float, batched: bool) -> None:
    cov = covariance(*related(300, 6, 5))
    assert cov.norms is not None
    in_range = 1e-75 < factor < 1e75  # of fourth powers
    scaled = dataclasses.replace(
        cov,
        mean_x=cov.mean_x * factor,
        xx=cov.xx * factor * factor,
        xy=cov.xy * factor,
        norms=cov.norms * torch.tensor([factor**4, 1.0, factor**2], dtype=torch.float64) if in_range else None,
    )
    fields = ["mean_x", "mean_y", "xx", "yy", "xy", *(["norms"] if in_range else [])]
    if batched:
        stacked = {f: torch.stack([getattr(c, f) for c in (cov, scaled)]) for f in fields}
        scaled = pc.Covariance(cov.count, **stacked, precision=cov.precision)
    for name in OF_COVARIANCES:
        metric = pc.METRICS[name]
        if name in ("debiased_cka", "rsa") and not in_range:
            continue
        if name == "maximum_match" and batched:  # of one pair alone
            continue
        got, want = metric(scaled), metric(cov)
        if isinstance(want, pc.CanonicalCorrelations):
            got, want = got.mean, want.mean
        assert float(got[1] if batched else got) == pytest.approx(float(want), abs=1e-12), name


def test_a_table_tells_the_rank_of_a_fit() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 3))
    images = torch.randn(300, 8)
    for target, column in (("y", "kept_x"), ("x", "kept_y")):
        table = pc.compare(net, net, images, "0", {"linear_regression": {"target": target}}).table
        assert table[column].tolist() == [8]
        assert table["kept_y" if column == "kept_x" else "kept_x"].isna().all()


def test_no_similarity_is_above_one() -> None:
    for seed in range(30):
        x, _ = related(40, 6, 5, seed=seed)
        for name in ("cca", "svcca", "pwcca", "linear_cka", "nbs", "procrustes", "linear_regression"):
            assert float(getattr(pc, name)(x, x)) <= 1.0
