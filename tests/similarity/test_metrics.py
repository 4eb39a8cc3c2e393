"""Metrics against their float64 definitions on the full matrices, on well-behaved and on degenerate representations."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from scipy.spatial import procrustes as scipy_procrustes

import prunecca as pc
from prunecca.similarity.spectrum import default_tolerance

pytestmark = pytest.mark.usefixtures("one_thread")


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
METRICS: dict[str, tuple[Callable[..., Any], Callable[[Any, Any, float], float]]] = {
    "cca": (pc.cca, lambda x, y, tol: float(reference.cca(x, y, tol).mean())),
    "svcca": (pc.svcca, lambda x, y, tol: float(reference.cca(x, y, tol, 0.99).mean())),
    "pwcca": (pc.pwcca, lambda x, y, tol: reference.pwcca(x, y, tol)),
    "linear_cka": (pc.linear_cka, lambda x, y, tol: reference.linear_cka(x, y)),
    "nbs": (pc.nbs, lambda x, y, tol: reference.nbs(x, y)),
    "linear_regression": (pc.linear_regression, lambda x, y, tol: reference.linear_regression(x, y)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METRICS)
def test_agrees_with_the_full_matrix(name: str, kind: str) -> None:
    x, y = degenerate(kind)
    metric, definition = METRICS[name]
    expected = definition(x, y, 1e-11)
    assert float(metric(covariance(x, y))) == pytest.approx(expected, abs=1e-9)
    assert float(metric(x, y)) == pytest.approx(expected, abs=1e-9)  # float64 arrays, streamed


@pytest.mark.parametrize("kind", KINDS)
def test_debiased_cka_agrees_with_the_n_by_n_definition(kind: str) -> None:
    x, y = degenerate(kind)
    expected = reference.linear_cka(x, y, debiased=True)
    assert pc.linear_cka(covariance(x, y), debiased=True) == pytest.approx(expected, abs=1e-9)
    assert pc.linear_cka(x, y, debiased=True) == pytest.approx(expected, abs=1e-9)


def test_procrustes_agrees_with_scipy() -> None:
    x, y = related(200, 7, 7)
    assert pc.procrustes(covariance(x, y)) == pytest.approx(1 - scipy_procrustes(x, y)[2], abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_float32_activations_agree_with_float64_truth(name: str) -> None:
    x, y = (a.astype(np.float32) for a in related(1500, 48, 32))
    metric, definition = METRICS[name]
    assert float(metric(x, y)) == pytest.approx(definition(x, y, 1e-6), abs=2e-6)


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


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", [*METRICS, "procrustes"])
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


def test_linear_regression_on_either_side() -> None:
    x, y = related(300, 8, 13)
    cov = covariance(x, y)
    assert pc.linear_regression(cov, target="x") == pytest.approx(reference.linear_regression(y, x), abs=1e-9)


def test_tolerance_decides_the_rank() -> None:
    x = np.diag([1.0, 1e-2, 1e-4]) @ np.random.default_rng(0).standard_normal((3, 200))
    cov = covariance(x.T, x.T)
    assert [pc.cca(cov, tol=tol).kept_x for tol in (1e-1, 1e-6, 1e-11)] == [1, 2, 3]
    assert pc.cca(cov).tol == (default_tolerance("float64", 3),) * 2
    assert pc.cca(covariance(x.T, x.T, "float32")).tol[0] >= 1e-7


def test_arrays_of_every_kind_give_the_same_value(tmp_path: Path) -> None:
    x, y = (a.astype(np.float32) for a in related(2000, 16, 16))
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = pc.svcca(x, y).mean
    assert pc.svcca(mapped, torch.from_numpy(y)).mean == expected
    assert pc.svcca(torch.from_numpy(x.T.copy()).T, y).mean == pytest.approx(expected, abs=1e-7)
    images = torch.from_numpy(x).reshape(20, 10, 10, 16).permute(0, 3, 1, 2)
    assert pc.svcca(images, torch.from_numpy(y).reshape(20, 10, 10, 16).permute(0, 3, 1, 2)).mean == pytest.approx(
        expected, abs=1e-7
    )


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


def test_each_representation_is_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = related(200, 10, 7)
    cov = covariance(x, y)
    calls = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: calls.append(m) or eigh(m))
    values = [pc.cca(cov).mean, pc.svcca(cov).mean, pc.linear_regression(cov)]
    assert len(calls) == 2
    cov.xx.copy_(torch.from_numpy(reference.covariance(2 * x, y)["xx"]))  # written to: not to be remembered
    cov.xy.mul_(2)
    again = [pc.cca(cov).mean, pc.svcca(cov).mean, pc.linear_regression(cov)]
    assert len(calls) == 3
    assert again == pytest.approx(values, abs=1e-12)


def test_spectra_are_forgotten_with_their_matrix() -> None:
    from prunecca.similarity import spectrum

    before = len(spectrum._remembered)
    cov = covariance(*related(50, 5, 5))
    pc.cca(cov)
    assert len(spectrum._remembered) == before + 2
    del cov
    assert len(spectrum._remembered) == before


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


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, y, c: pc.cca(x), TypeError, "one ndarray was given; expected a Covariance, or two arrays"),
        (lambda x, y, c: pc.cca(c, y), TypeError, "a Covariance alone"),
        (lambda x, y, c: pc.cca(x, "y"), TypeError, "y is a str"),
        (lambda x, y, c: pc.cca(x.astype(int), y), TypeError, "x has dtype int64; expected float16"),
        (lambda x, y, c: pc.cca(x[:-1], y), ValueError, "shape"),
        (lambda x, y, c: pc.cca(x[:1], y[:1]), ValueError, "at least 2"),
        (lambda x, y, c: pc.cca(x * np.nan, y), ValueError, "NaN"),
        (lambda x, y, c: pc.cca(c, tol=1.0), ValueError, "tol is 1.0"),
        (lambda x, y, c: pc.linear_regression(c, tol=-1), ValueError, "tol is -1"),
        (lambda x, y, c: pc.linear_regression(c, target="z"), ValueError, "target is 'z'; expected 'x' or 'y'"),
        (lambda x, y, c: pc.cca(c, trim=0.0), ValueError, "trim is 0.0"),
        (lambda x, y, c: pc.svcca(c, variance=99), ValueError, "variance is 99; expected a fraction"),
        (lambda x, y, c: pc.pwcca(c, side="z"), ValueError, "side is 'z'; expected 'x' or 'y'"),
        (lambda x, y, c: pc.linear_cka(pc.Covariance(50, *c), debiased=True), ValueError, "norms=True"),
        (lambda x, y, c: pc.linear_cka(x[:3], y[:3], debiased=True), ValueError, "at least 4"),
        (lambda x, y, c: pc.cca(pc.Covariance(1, *c)), ValueError, "1 datapoints; expected at least 2"),
        (lambda x, y, c: pc.cca(x, y, precision="half"), ValueError, "expected 'float32' or 'float64'"),
    ],
)
def test_errors_say_what_was_wrong(call: Any, error: type[Exception], words: str) -> None:
    x, y = related(50, 5, 5)
    cov = covariance(x, y)
    if call.__code__.co_consts and "Covariance" in call.__code__.co_names:
        cov = (cov.mean_x, cov.mean_y, cov.xx, cov.yy, cov.xy)
    with pytest.raises(error, match=words):
        call(x, y, cov)


@pytest.mark.cuda
@pytest.mark.parametrize("name", [*METRICS, "procrustes"])
def test_cuda_agrees_with_the_host(name: str) -> None:
    cov = covariance(*related(400, 64, 40))
    moved = pc.Covariance(
        cov.count, *(getattr(cov, f).cuda() for f in ("mean_x", "mean_y", "xx", "yy", "xy")), "float64"
    )
    assert float(getattr(pc, name)(moved)) == pytest.approx(float(getattr(pc, name)(cov)), abs=1e-10)
