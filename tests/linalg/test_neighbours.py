"""Nearest neighbours against all distances in float64, on data whose neighbours a product in float32 cannot find."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunecca.linalg import neighbours
from prunecca.linalg.neighbours import nearest

pytestmark = pytest.mark.usefixtures("one_thread")
RNG = np.random.default_rng(0)


def gauss(count: int, features: int) -> np.ndarray:
    return RNG.standard_normal((count, features))


def two_groups(far: float, features: int = 4) -> np.ndarray:
    x = gauss(400, features)
    x[200:] += far
    return x


HARD = {
    "plain": gauss(300, 20).astype("f4"),
    "many dimensions": gauss(120, 3000).astype("f4"),
    "two far groups": two_groups(1e4).astype("f4"),
    "two groups, one a line": np.concatenate([gauss(200, 1) * [1e-3, 1e-3], gauss(200, 2) + 1e5]).astype("f4"),
    "far mean": (gauss(300, 30) + 1e6).astype("f4"),
    "tiny": (gauss(300, 5) * 1e-22).astype("f4"),
    "subnormal": (gauss(300, 5) * 1e-41).astype("f4"),
    "huge": (gauss(300, 5) * 5e37).astype("f4"),
    "one outlier": np.concatenate([gauss(300, 6), np.full((1, 6), 1e12)]).astype("f4"),
    "grid": np.stack(np.meshgrid(*[np.arange(7.0)] * 3), -1).reshape(-1, 3).astype("f4"),
    "equidistant": np.eye(60, dtype="f4"),
    "tight clusters": (gauss(30, 40).repeat(10, 0) + 1e-5 * gauss(300, 40)).astype("f4"),
    "scales of features": (gauss(300, 8) * 10.0 ** np.arange(-8, 8, 2)).astype("f4"),
    "rectified": np.maximum(gauss(300, 50), 0).astype("f4"),
    "float64": gauss(300, 12),
    "float64, groups beyond float32": two_groups(1e10),
    "float64, far mean": gauss(300, 12) + 1e12,
    "float64, huge": gauss(300, 12) * 1e300,
    "float64, tiny": gauss(300, 12) * 1e-300,
    "few": gauss(4, 3).astype("f4"),
}


def all_distances(x: np.ndarray) -> np.ndarray:
    """Sorted distances to the other points, each point in turn, in long double where float64 might not do."""
    exact = x.astype(np.longdouble)
    rows = [np.sort(np.sqrt(((np.delete(exact, k, 0) - row) ** 2).sum(1))) for k, row in enumerate(exact)]
    return np.array(rows)


@pytest.mark.parametrize("name", HARD)
def test_nearest_neighbours_are_those_of_all_distances(name: str) -> None:
    x = HARD[name]
    expected = all_distances(x)
    distances, near = (part.numpy() for part in nearest(torch.from_numpy(x), 16))
    count = min(16, len(x) - 1)
    assert near.shape == distances.shape == (len(x), count)
    assert all(k not in row and len(set(row)) == count for k, row in enumerate(near.tolist()))
    exact = x.astype(np.longdouble)
    own = np.sqrt(((exact[near] - exact[:, None]) ** 2).sum(2))
    np.testing.assert_allclose(own, expected[:, :count], rtol=1e-12, err_msg="the neighbours are not the nearest")
    factor = np.median(distances / own)
    assert np.log2(float(factor)) == pytest.approx(round(np.log2(float(factor))), abs=1e-9), "a power of two"
    np.testing.assert_allclose(distances / factor, own, rtol=1e-12)


def test_equally_near_points_come_in_order() -> None:
    x = torch.tensor([[1.0], [0.0], [2.0], [0.0], [2.0], [1.5]])
    assert nearest(x, 5)[1][0].tolist() == [5, 1, 2, 3, 4]


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_of_fewer_digits_change_nothing(precision: str) -> None:
    x = torch.from_numpy(HARD["many dimensions"])
    expected = nearest(x, 16)[1]
    torch.set_float32_matmul_precision(precision)
    try:
        found = nearest(x, 16)[1]
    finally:
        torch.set_float32_matmul_precision("highest")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = nearest(x, 16)[1]
    assert torch.equal(found, expected)
    assert torch.equal(again, expected)


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The largest error of every product as a part of what the bound allows, at all pairs within reach."""
    found: list[float] = []

    class Watched(neighbours._Search):
        def _settled(self, proposal: neighbours._Proposal) -> torch.Tensor:
            left = super()._settled(proposal)
            p = proposal
            exact = self._points.double() - self._centre.double()
            square = exact.square().sum(1) * self._scale**2
            true = square[p.candidates] - 2 * (exact[p.rows] @ exact.mT).gather(1, p.candidates) * self._scale**2
            last = self.distances[p.rows, -1] * self._scale
            levels = self._error(p, last).unsqueeze(1)
            inside = true <= (last.square() - p.squares).unsqueeze(1)
            found.append(float(((p.rough - true).abs() / levels)[inside].max()))
            return left

    monkeypatch.setattr(neighbours, "_Search", Watched)
    return found


@pytest.mark.parametrize("name", ["plain", "many dimensions", "far mean", "tiny", "rectified", "scales of features"])
def test_the_bound_holds(errors: list[float], name: str) -> None:
    nearest(torch.from_numpy(HARD[name]), 16)
    assert max(errors) < 1
