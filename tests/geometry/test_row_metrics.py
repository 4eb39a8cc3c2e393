"""Metrics of rows against plain loops, and their laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from representations import related
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")
Array = np.ndarray[Any, Any]

METRICS = [pc.rbf_cka, pc.spearman_rsa, pc.mutual_knn, pc.jaccard, pc.cknna]
NEIGHBOURS = [pc.mutual_knn, pc.jaccard, pc.cknna]
X, Y = related(60, 7, 5)


def hsic(k: Array, other: Array, unbiased: bool) -> float:
    n = len(k)
    if not unbiased:
        h = np.eye(n) - 1 / n
        return float(np.trace(k @ h @ other @ h))
    k, other, one = k - np.diag(np.diag(k)), other - np.diag(np.diag(other)), np.ones(n)
    crossed = one @ k @ other @ one
    return float(
        np.trace(k @ other) + (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed
    )


def plain_cka(x: Array, y: Array, sigma: float, debiased: bool) -> float:
    kernels = []
    for side in (x, y):
        distances = cdist(side, side)
        width = sigma * np.median(distances[np.triu_indices(len(side), 1)])
        kernels.append(np.exp(-(distances**2) / (2 * width**2)))
    k, other = kernels
    return hsic(k, other, debiased) / math.sqrt(hsic(k, k, debiased) * hsic(other, other, debiased))


def neighbours(x: Array, k: int) -> list[set[int]]:
    found = []
    for i, row in enumerate(x):
        near = sorted((float(np.linalg.norm(row - other)), j) for j, other in enumerate(x) if j != i)
        found.append({j for _, j in near[:k]})
    return found


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def plain_cknna(x: Array, y: Array, k: int) -> float:
    """As in the code published with the paper: products of unit rows, in loops."""

    def aligned(a: Array, b: Array) -> float:
        near = list(zip(neighbours(a, k), neighbours(b, k), strict=True))
        mask = np.array([[float(j in p and j in q) for j in range(len(a))] for p, q in near])
        return hsic(mask * (a @ a.T), mask * (b @ b.T), True)

    x, y = unit(x), unit(y)
    return aligned(x, y) / math.sqrt(aligned(x, x) * aligned(y, y))


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
def test_rbf_cka_is_that_of_the_whole_kernels(sigma: float, debiased: bool) -> None:
    expected = plain_cka(X, Y, sigma, debiased)
    assert pc.rbf_cka(X, Y, sigma=sigma, debiased=debiased) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("debiased", [False, True])
def test_wide_kernels_give_linear_cka(debiased: bool) -> None:
    expected = pc.linear_cka(X, Y, debiased=debiased)
    assert pc.rbf_cka(X, Y, sigma=1e5, debiased=debiased) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("k", [1, 4, 10, 59])
def test_shares_of_neighbours_are_those_of_sets(k: int) -> None:
    for distance, change in (("euclidean", np.asarray), ("cosine", unit)):
        sets = list(zip(neighbours(change(X), k), neighbours(change(Y), k), strict=True))
        options = {"k": k, "distance": distance}
        assert pc.mutual_knn(X, Y, **options) == pytest.approx(np.mean([len(a & b) / k for a, b in sets]), abs=1e-12)
        assert pc.jaccard(X, Y, **options) == pytest.approx(np.mean([len(a & b) / len(a | b) for a, b in sets]))


@pytest.mark.parametrize("k", [2, 10, 30])
def test_cknna_is_that_of_masked_kernels(k: int) -> None:
    assert pc.cknna(X, Y, k=k) == pytest.approx(plain_cknna(X, Y, k), abs=1e-12)


def test_cknna_of_all_neighbours_is_debiased_cka_of_unit_rows() -> None:
    assert pc.cknna(X, Y, k=59) == pytest.approx(pc.linear_cka(unit(X), unit(Y), debiased=True), abs=1e-10)


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "correlation"])
def test_spearman_rsa_is_that_of_all_distances(distance: str) -> None:
    above = np.triu_indices(60, 1)
    sides = [cdist(side, side, distance)[above] for side in (X, Y)]
    found = pc.spearman_rsa(X, Y, distance=distance)
    assert found == pytest.approx(spearmanr(*sides).statistic, abs=1e-9)


def test_equal_distances_share_their_ranks() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, (40, 2)).astype(float), rng.integers(0, 2, (40, 3)).astype(float)
    above = np.triu_indices(40, 1)
    sides = [np.round(cdist(side, side)[above], 9) for side in (x, y)]
    assert pc.spearman_rsa(x, y) == pytest.approx(spearmanr(*sides).statistic, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_self_is_one_and_both_orders_are_the_same(metric: Callable[..., float]) -> None:
    assert metric(X, X) == pytest.approx(1.0, abs=1e-12)
    assert metric(X, Y) == pytest.approx(metric(Y, X), abs=0.01 if metric is pc.cknna else 1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_orthogonal_maps_scales_and_the_order_of_rows_change_nothing(metric: Callable[..., float]) -> None:
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    order = rng.permutation(60)
    expected = metric(X, Y)
    for scale in (1.0, 1e-150, 1e150, 1e-306):
        assert metric(scale * (X @ rotation)[order], Y[order]) == pytest.approx(expected, abs=1e-9)
    moved = metric(X + 100.0, Y)
    assert (abs(moved - expected) < 1e-9) is (metric is not pc.cknna)
    assert pc.spearman_rsa(X * rng.uniform(1, 2, (60, 1)), Y, distance="cosine") == pytest.approx(
        pc.spearman_rsa(X, Y, distance="cosine"), abs=1e-12
    )


@pytest.mark.parametrize("metric", METRICS)
def test_unrelated_representations_are_at_chance(metric: Callable[..., float]) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((400, 5)), rng.standard_normal((400, 4))
    options = {"debiased": True} if metric is pc.rbf_cka else {}
    chance = {pc.mutual_knn: 10 / 399, pc.jaccard: 10 / (2 * 399 - 10), pc.cknna: 10 / 399}.get(metric, 0.0)
    assert metric(x, y, **options) == pytest.approx(chance, abs=0.02)


@pytest.mark.parametrize("metric", METRICS)
def test_duplicates_do_no_harm(metric: Callable[..., float]) -> None:
    """Equal rows on one side must not look like structure that both share, in whatever order the rows come."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((300, 5)), rng.standard_normal((300, 4))
    x[rng.random(300) < 0.7] = 0.0
    order = rng.permutation(300)
    options = {"debiased": True} if metric is pc.rbf_cka else {}
    assert metric(x, y, **options) < 0.06
    assert metric(x, y) == pytest.approx(metric(x[order], y[order]), abs=1e-9)
    assert metric(x, x) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("metric", NEIGHBOURS[:2])
def test_ties_on_a_grid_do_not_depend_on_the_order_of_rows(metric: Callable[..., float]) -> None:
    rng = np.random.default_rng(4)
    x = rng.permutation([[a, b] for a in range(12) for b in range(12)]).astype(float)
    y = rng.random((144, 2))
    order = rng.permutation(144)
    assert metric(x, y, k=3) == pytest.approx(metric(x[order], y[order], k=3), abs=1e-12)
    turned = x @ np.array([[0.6, -0.8], [0.8, 0.6]])
    assert metric(x, turned, k=3) == pytest.approx(1.0, abs=1e-12)


def test_rows_equally_far_from_each_other_are_at_chance() -> None:
    assert pc.mutual_knn(np.eye(60), Y) == pytest.approx(10 / 59, abs=1e-12)
    assert pc.mutual_knn(np.eye(60), np.eye(60)[::-1]) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows_alone_have_no_similarity(metric: Callable[..., float]) -> None:
    assert math.isnan(metric(np.full((30, 3), 0.1), Y[:30]))
    assert math.isnan(metric(Y[:30], np.zeros((30, 1))))


@pytest.mark.parametrize("metric", METRICS)
def test_positions_are_rows(metric: Callable[..., float]) -> None:
    x, y = torch.randn(4, 3, 5, 2), torch.randn(4, 6, 5, 2)
    expected = metric(x.movedim(1, -1).reshape(-1, 3), y.movedim(1, -1).reshape(-1, 6))
    assert metric(x, y) == expected
    assert metric(x.movedim(1, -1), y.movedim(1, -1), layout="nhwc") == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_numbers_are_taken_as_they_are(dtype: torch.dtype) -> None:
    x, y = torch.from_numpy(X).to(dtype), torch.from_numpy(Y).to(dtype)
    for metric in METRICS:
        assert metric(x, y) == metric(x.double().numpy(), y.double())


def test_a_row_without_direction_is_at_a_right_angle_to_all_others() -> None:
    x = np.array([[1.0, 0], [0, 0], [0, 0], [3, 4], [-2, 0]])
    cosine = {(0, 1): 1, (0, 2): 1, (1, 2): 0, (1, 3): 1, (1, 4): 1, (2, 3): 1, (2, 4): 1}
    cosine |= {(0, 3): 0.4, (0, 4): 2, (3, 4): 1.6}
    y = Y[:5]
    own = [cosine[i, j] for i, j in zip(*np.triu_indices(5, 1), strict=True)]
    others = cdist(y, y, "cosine")[np.triu_indices(5, 1)]
    expected = spearmanr(own, others).statistic
    assert pc.spearman_rsa(x, y, distance="cosine") == pytest.approx(expected, abs=1e-12)
    constant = np.concatenate([x, 7 - x.sum(1, keepdims=True)], 1)  # no row of it is
    constant[1] = 0.1
    assert math.isfinite(pc.spearman_rsa(constant, y, distance="correlation"))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pc.rbf_cka(X, Y, sigma=0.0), ValueError, "sigma is 0.0; expected a number of medians above 0"),
        (lambda: pc.rbf_cka(X[:3], Y[:3], debiased=True), ValueError, "3 datapoints were given; debiased CKA needs"),
        (lambda: pc.mutual_knn(X, Y, k=0), ValueError, "k is 0; expected 1 or more, and fewer than the 60 rows"),
        (lambda: pc.jaccard(X, Y, k=60), ValueError, "k is 60; expected 1 or more, and fewer than the 60 rows"),
        (lambda: pc.cknna(X, Y, k=1), ValueError, "k is 1; expected 2 or more"),
        (lambda: pc.cknna(X[:3], Y[:3], k=2), ValueError, "3 datapoints were given; cknna needs at least 4"),
        (
            lambda: pc.mutual_knn(X, Y, distance="angle"),
            ValueError,
            "distance is 'angle'; expected 'euclidean' or 'cos",
        ),
        (lambda: pc.spearman_rsa(X, Y, distance="l1"), ValueError, "'l1'; expected 'euclidean', 'cosine' or 'corr"),
    ],
)
def test_options_are_checked(call: Callable[[], float], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("metric", METRICS)
def test_what_are_no_rows_is_refused(metric: Callable[..., float]) -> None:
    cov = pc.StreamingCovariance()
    cov.update(X, Y)
    with pytest.raises(TypeError, match=f"{metric.__name__} was given a Covariance, which does not hold the rows"):
        metric(cov.finalize())
    with pytest.raises(TypeError, match=f"{metric.__name__} was given one ndarray; expected two arrays"):
        metric(X)
    with pytest.raises(ValueError, match=r"x has shape \(60, 7\) and y has \(59, 5\)"):
        metric(X, Y[1:])
    with pytest.raises(ValueError, match="1 datapoints were given; expected at least 2"):
        metric(X[:1], Y[:1])
    with pytest.raises(ValueError, match="y holds NaN or infinity"):
        metric(X, Y + np.where(np.arange(5) == 1, np.inf, 0.0))
    with pytest.raises(ValueError, match=r"x has shape \(60, 0\); expected at least one channel"):
        metric(X[:, :0], Y)
