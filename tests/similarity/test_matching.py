"""Matching of units, against brute force and least squares on the vectors themselves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import reference
from representations import KINDS, covariance, degenerate, related

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", KINDS)
def test_hard_matching_takes_the_best_partner(kind: str) -> None:
    x, y = degenerate(kind)
    r = reference.correlations(x, y)
    cov = covariance(x, y)
    assert pc.hard_matching(cov) == pytest.approx(r.max(1).mean(), abs=1e-9)
    assert pc.hard_matching(cov, side="y") == pytest.approx(r.max(0).mean(), abs=1e-9)
    assert pc.hard_matching(cov, absolute=True) == pytest.approx(abs(r).max(1).mean(), abs=1e-9)


@pytest.mark.parametrize("sizes", [(5, 5), (4, 6), (6, 3), (1, 1)])
@pytest.mark.parametrize("absolute", [False, True])
def test_permutation_matching_is_the_best_of_all(sizes: tuple[int, int], absolute: bool) -> None:
    x, y = related(100, *sizes)
    r = reference.correlations(x, y)
    r = abs(r) if absolute else r
    r = r if sizes[0] <= sizes[1] else r.T
    every = itertools.permutations(range(r.shape[1]), r.shape[0])
    best = max(np.mean([r[i, j] for i, j in enumerate(chosen)]) for chosen in every)
    assert pc.permutation_matching(x, y, absolute=absolute) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_soft_matching_is_an_assignment_of_copies(kind: str) -> None:
    x, y = degenerate(kind)
    expected = reference.soft_matching(x, y)
    assert pc.soft_matching(x, y) == pytest.approx(expected, abs=1e-8)
    assert pc.soft_matching_distance(covariance(x, y)) == pytest.approx(math.sqrt(2 - 2 * expected), abs=1e-8)


def test_soft_and_permutation_matching_agree_on_equal_numbers() -> None:
    x, y = related(200, 9, 9)
    assert pc.soft_matching(x, y) == pc.permutation_matching(x, y)


def spans(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Two units of x that span what two of y span, one that each side has alike but for noise, and strangers."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 6)) + rng.normal(0, 1, 6)
    y = rng.standard_normal((n, 5)) + 0.5
    y[:, 0], y[:, 3] = x[:, 1] + x[:, 4], x[:, 1] - 2 * x[:, 4]
    y[:, 2] = x[:, 2] + 0.2 * rng.standard_normal(n)
    return x, y


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("centred", [False, True])
def test_the_maximum_match_is_that_of_least_squares(epsilon: float, centred: bool) -> None:
    x, y = spans()
    expected = reference.maximum_match(*((reference.centred(z) for z in (x, y)) if centred else (x, y)), epsilon)
    found = pc.maximum_match(x, y, epsilon=epsilon, centred=centred)
    assert (list(found.units_x), list(found.units_y)) == expected
    assert found.similarity == pytest.approx((len(expected[0]) + len(expected[1])) / 11)
    if epsilon == 0.1:
        assert found.units_x == (1, 4)
        assert found.units_y == (0, 3)


def test_random_maximum_matches_are_those_of_least_squares() -> None:
    sizes = set()
    for seed in range(12):
        x, y = related(60, 7, 6, noise=0.2, seed=seed)
        expected = reference.maximum_match(x, y, 0.5)
        found = pc.maximum_match(x, y, epsilon=0.5)
        assert (list(found.units_x), list(found.units_y)) == expected
        sizes.add(len(found.units_x))
    assert len(sizes) > 2  # the epsilon tells them apart


def test_units_of_norm_zero_take_no_part() -> None:
    x, y = spans()
    x[:, 0] = 0.0
    found = pc.maximum_match(x, x)
    assert (found.similarity, found.units_x) == (1.0, (1, 2, 3, 4, 5))
    assert 0 not in pc.maximum_match(x, y, epsilon=0.9).units_x


def test_simple_matches_are_matches_and_cannot_be_made_smaller() -> None:
    x, y = spans()
    assert (pc.simple_match(x, y, unit=1).units_x, pc.simple_match(x, y, unit=1).units_y) == ((1, 4), (0, 3))
    assert (pc.simple_match(x, y, unit=2, side="y").units_x) == (2,)
    assert pc.simple_match(x, y, unit=0).similarity == 0.0
    x, y = related(60, 5, 5, noise=0.3)
    found = pc.simple_match(x, y, unit=3, epsilon=0.8)
    a, b = list(found.units_x), list(found.units_y)
    assert 3 in a
    assert reference.maximum_match(x[:, a], y[:, b], 0.8) == (list(range(len(a))), list(range(len(b))))
    for fewer_x, fewer_y in [(sorted({*a} - {i}), b) for i in a if i != 3] + [(a, sorted({*b} - {j})) for j in b]:
        left = reference.maximum_match(x[:, fewer_x], y[:, fewer_y], 0.8)[0]
        assert fewer_x.index(3) not in left


def test_matches_are_of_one_pair() -> None:
    cov = covariance(*spans())
    batch = pc.Covariance(200, *(getattr(cov, f)[None] for f in ("mean_x", "mean_y", "xx", "yy", "xy")))
    with pytest.raises(ValueError, match="expected that of one pair"):
        pc.maximum_match(batch)
