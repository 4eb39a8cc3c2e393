"""The relatives of CCA, CKA and Procrustes, RSA, shapes and GULP against definitions on the full matrices."""

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


def squares(x: Any, y: Any) -> float:
    return float((reference.cca(x, y, 1e-11) ** 2).sum())


def ranks(x: Any, y: Any) -> tuple[int, int]:
    return reference.principal(x, 1e-11).shape[1], reference.principal(y, 1e-11).shape[1]


DEFINITIONS: dict[str, Callable[[Any, Any], float]] = {
    "mean_squared_cca": lambda x, y: squares(x, y) / min(ranks(x, y)),
    "pillai": lambda x, y: squares(x, y) / min(ranks(x, y)),
    "yanai": lambda x, y: squares(x, y) / math.sqrt(math.prod(ranks(x, y))),
    "angular_cka": lambda x, y: math.acos(min(1.0, reference.linear_cka(x, y))),
    "cka_distance": lambda x, y: math.sqrt(2 - 2 * reference.linear_cka(x, y)),
    "angular_procrustes": lambda x, y: math.acos(min(1.0, reference.nbs(x, y))),
    "procrustes_distance": lambda x, y: math.sqrt(2 - 2 * reference.nbs(x, y)),
    "shape_distance": lambda x, y: reference.shape_distance(x, y, 0.5),
    "gulp": lambda x, y: reference.gulp(x, y, 0.01),
    "rsa": reference.rsa,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_agrees_with_the_full_matrix(name: str, kind: str) -> None:
    x, y = degenerate(kind)
    expected = DEFINITIONS[name](x, y)
    assert float(getattr(pc, name)(covariance(x, y))) == pytest.approx(expected, abs=1e-8)
    assert float(getattr(pc, name)(x, y)) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_float32_activations_agree_with_float64_truth(name: str) -> None:
    x, y = (a.astype(np.float32) for a in related(400, 24, 16))
    acc = pc.StreamingCovariance(norms=True, precision="float32")
    acc.update(x, y)
    tolerance = 2e-5 if name == "gulp" else 2e-6  # the ridge is 1e5 times the error, and a root makes more of it
    assert float(getattr(pc, name)(acc.finalize())) == pytest.approx(DEFINITIONS[name](x, y), abs=tolerance)


@pytest.mark.parametrize("k", [1, 3, 7, 12, 50])
def test_svcca_of_a_number_of_directions(k: int) -> None:
    x, y = related(300, 12, 9)

    def leading(z: np.ndarray) -> np.ndarray:
        return np.linalg.svd(reference.centred(z), full_matrices=False)[0][:, :k]

    expected = np.linalg.svd(leading(x).T @ leading(y), compute_uv=False)
    result = pc.svcca(covariance(x, y), k=k)
    assert (result.kept_x, result.kept_y, result.k, result.variance) == (min(k, 12), min(k, 9), k, None)
    np.testing.assert_allclose(result.correlations, expected, atol=1e-9)
    assert result.mean == pytest.approx(expected.mean(), abs=1e-9)


def test_a_number_of_directions_is_cut_at_the_rank() -> None:
    x, y = degenerate("rank-deficient")
    assert pc.svcca(covariance(x, y), k=8).kept_x == 6
    with pytest.raises(ValueError, match="k is 0; expected a number of directions of at least 1"):
        pc.svcca(covariance(x, y), k=0)


def test_pillais_trace_itself() -> None:
    x, y = related(300, 12, 9)
    assert pc.pillai(covariance(x, y), normalised=False).mean == pytest.approx(squares(x, y), abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("kind", ["ordinary", "dead", "different widths"])
def test_shapes_of_every_regularisation(alpha: float, kind: str) -> None:
    x, y = degenerate(kind)
    expected = reference.shape_distance(x, y, alpha)
    assert pc.shape_distance(covariance(x, y), alpha=alpha) == pytest.approx(expected, abs=1e-8)


def test_the_ends_of_the_regularisation_are_procrustes_and_cca() -> None:
    cov = covariance(*related(300, 12, 9))
    assert pc.shape_distance(cov, alpha=1.0) == pytest.approx(pc.angular_procrustes(cov), abs=1e-12)
    cosine = float(pc.cca(cov).correlations.sum()) / math.sqrt(12 * 9)
    assert pc.shape_distance(cov, alpha=0.0) == pytest.approx(math.acos(cosine), abs=1e-9)


@pytest.mark.parametrize("ridge", [1e-6, 1.0, 100.0])
def test_gulp_of_every_penalty(ridge: float) -> None:
    x, y = related(150, 7, 5)
    assert pc.gulp(x, y, ridge=ridge) == pytest.approx(reference.gulp(x, y, ridge), rel=1e-6)


def test_gulp_without_a_penalty_is_a_distance_of_cca() -> None:
    x, y = related(300, 12, 9)
    expected = math.sqrt(12 + 9 - 2 * squares(x, y))
    assert pc.gulp(x, y, ridge=1e-9) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["angular_cka", "angular_procrustes", "shape_distance", "gulp", "procrustes_distance"])
def test_distances_obey_the_triangle(name: str) -> None:
    for seed in range(5):
        x, y = related(40, 6, 6, noise=2.0, seed=seed)
        z = related(40, 6, 6, noise=2.0, seed=100 + seed)[0]
        d = getattr(pc, name)
        assert d(x, z) <= d(x, y) + d(y, z) + 1e-9


def test_equal_distances_have_no_correlation() -> None:
    simplex = np.eye(4)
    assert math.isnan(float(pc.rsa(simplex, np.random.default_rng(0).random((4, 3)))))
    assert math.isnan(float(pc.rsa(simplex[:2], simplex[:2])))
    cov = covariance(simplex, simplex)
    with pytest.raises(ValueError, match=r"norms=True\) for RSA"):
        pc.rsa(pc.Covariance(4, cov.mean_x, cov.mean_y, cov.xx, cov.yy, cov.xy))


def test_rsa_of_unit_rows_is_that_of_cosine_distances() -> None:
    x, y = related(60, 7, 5)
    cosines = [1 - z @ z.T / np.outer(*[np.linalg.norm(z, axis=1)] * 2) for z in (x, y)]
    upper = np.triu_indices(60, 1)
    expected = np.corrcoef(cosines[0][upper], cosines[1][upper])[0, 1]
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y)]
    assert pc.rsa(*unit) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("shape_distance", {"alpha": 1.5}, "alpha is 1.5; expected a number from 0"),
        ("shape_distance", {"tol": 1.0}, "tol is 1.0"),
        ("gulp", {"ridge": 0.0}, "ridge is 0.0; expected a penalty above 0"),
        ("gulp", {"ridge": math.nan}, "ridge is nan"),
        ("svcca", {"k": True}, "k is True"),
        ("hard_matching", {"side": "z"}, "side is 'z'"),
        ("maximum_match", {"epsilon": 1.0}, "epsilon is 1.0; expected a fraction"),
        ("simple_match", {"unit": 9}, "unit is 9; expected a channel of x from 0 to 3"),
        ("simple_match", {"side": "z"}, "side is 'z'"),
    ],
)
def test_errors_say_what_was_wrong(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        getattr(pc, name)(torch.randn(50, 4), torch.randn(50, 4), **options)
