"""What must hold of every metric on any representation: symmetry, range, invariances, 1 with itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")

METRICS = ["cca", "svcca", "pwcca", "linear_cka", "nbs", "procrustes", "linear_regression"]
ROTATION_ONLY = ["svcca", "linear_cka", "nbs", "procrustes"]

settings.register_profile("prunecca", max_examples=15, deadline=None, derandomize=True)
settings.load_profile("prunecca")


@st.composite
def representations(
    draw: st.DrawFn, sizes: tuple[int, ...] = (8, 40, 300)
) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """A pair with 1 to 12 channels a side, more or less related, sometimes with fewer datapoints than channels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, cx, cy = draw(st.sampled_from(sizes)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    x = rng.standard_normal((n, cx)) * rng.uniform(0.5, 2.0, cx) + draw(st.sampled_from([0.0, 10.0]))
    y = draw(st.sampled_from([0.0, 1.0])) * x @ rng.standard_normal((cx, cy)) + rng.standard_normal((n, cy))
    return x, y, rng


def value(name: str, x: Any, y: Any) -> float:
    return float(getattr(pc, name)(x, y))


def rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


@pytest.mark.parametrize("name", METRICS)
@given(pair=representations())
def test_lies_between_0_and_1(name: str, pair: Any) -> None:
    assert 0.0 <= value(name, pair[0], pair[1]) <= 1.0


@pytest.mark.parametrize("name", METRICS)
@given(pair=representations())
def test_is_1_with_itself(name: str, pair: Any) -> None:
    assert value(name, pair[0], pair[0]) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", ["cca", "svcca", "linear_cka", "nbs", "procrustes"])
@given(pair=representations())
def test_is_symmetric(name: str, pair: Any) -> None:
    x, y, _ = pair
    assert value(name, x, y) == pytest.approx(value(name, y, x), abs=1e-9)


@pytest.mark.parametrize("side", ["x", "y"])
@given(
    pair=representations(sizes=(40, 300))
)  # with fewer rows than channels correlations tie at 1, and tied weights are arbitrary
def test_pwcca_swaps_with_its_sides(side: Any, pair: Any) -> None:
    x, y, _ = pair
    other = "y" if side == "x" else "x"
    assert float(pc.pwcca(x, y, side=side)) == pytest.approx(float(pc.pwcca(y, x, side=other)), abs=1e-9)


@given(pair=representations())
def test_cca_ignores_invertible_maps(pair: Any) -> None:
    x, y, rng = pair
    skew = rotation(x.shape[1], rng) * rng.uniform(0.2, 5.0, x.shape[1]) @ rotation(x.shape[1], rng)
    before, after = pc.cca(x, y), pc.cca(x @ skew + 3.0, y)
    assert after.kept_x == before.kept_x
    np.testing.assert_allclose(after.correlations, before.correlations, atol=1e-8)


@given(pair=representations())
def test_linear_regression_ignores_invertible_maps_of_the_predictor(pair: Any) -> None:
    x, y, rng = pair
    skew = rotation(x.shape[1], rng) * rng.uniform(0.2, 5.0, x.shape[1])
    assert value("linear_regression", x @ skew, y) == pytest.approx(value("linear_regression", x, y), abs=1e-8)


@pytest.mark.parametrize("name", ROTATION_ONLY)
@given(pair=representations(), scale=st.floats(1e-3, 1e3))
def test_ignores_rotation_and_scale(name: str, pair: Any, scale: float) -> None:
    x, y, rng = pair
    after = value(name, scale * x @ rotation(x.shape[1], rng) + 1.0, y @ rotation(y.shape[1], rng))
    assert after == pytest.approx(value(name, x, y), abs=1e-7)


@given(pair=representations())
def test_debiased_cka_ignores_rotation_and_scale(pair: Any) -> None:
    x, y, rng = pair
    before = pc.linear_cka(x, y, debiased=True)
    after = pc.linear_cka(0.1 * x @ rotation(x.shape[1], rng) - 5.0, y, debiased=True)
    assert after == pytest.approx(before, abs=1e-7, nan_ok=True)


def test_orthogonal_metrics_notice_an_invertible_map() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6))
    stretched = x * [100.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    for name in ROTATION_ONLY:
        assert value(name, x, stretched) < 0.99 or name == "svcca"
    assert value("cca", x, stretched) == pytest.approx(1.0)


def test_debiased_cka_of_unrelated_representations_is_near_0() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((100, 80)), rng.standard_normal((100, 80))
    assert pc.linear_cka(x, y) > 0.3
    assert abs(float(pc.linear_cka(x, y, debiased=True))) < 0.05
