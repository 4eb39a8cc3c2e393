"""What every metric claims: its value for a representation and itself, symmetry, range, what changes it and what does not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from representations import covariance, related

import prunecca as pc
from prunecca.similarity.registry import find_metrics

pytestmark = pytest.mark.usefixtures("one_thread")

RANK = ["invertible", "orthogonal", "units"]  # maps that leave the ranks and correlations of directions as they are
SHAPE = ["orthogonal"]
UNITS = ["units"]


@dataclass(frozen=True)
class Law:
    """What one metric claims.

    Attributes:
        own: its value for a representation and itself.
        high: its largest value.
        kept: the maps of one side that leave it as it is.
        changed: a map that must not.
        low: its smallest value.
        symmetric: whether both sides may change places.
        options: of the metric.
    """

    own: float
    high: float
    kept: list[str]
    changed: str
    low: float = 0.0
    symmetric: bool = True
    options: tuple[tuple[str, Any], ...] = ()


LAWS = {
    "mean_squared_cca": Law(1, 1, RANK, "bent"),
    "yanai": Law(1, 1, RANK, "bent"),
    "pillai": Law(1, 1, RANK, "bent"),
    "rsa": Law(1, 1, SHAPE, "invertible", low=-1),
    "angular_cka": Law(0, math.pi / 2, SHAPE, "invertible"),
    "cka_distance": Law(0, math.sqrt(2), SHAPE, "invertible"),
    "angular_procrustes": Law(0, math.pi / 2, SHAPE, "invertible"),
    "procrustes_distance": Law(0, math.sqrt(2), SHAPE, "invertible"),
    "shape_distance": Law(0, math.pi / 2, SHAPE, "invertible"),
    "shape_distance of CCA": Law(0, math.pi / 2, RANK, "bent", options=(("alpha", 0.0),)),
    "gulp": Law(0, math.sqrt(11), SHAPE, "invertible"),
    "hard_matching": Law(1, 1, UNITS, "orthogonal", low=-1, symmetric=False),
    "permutation_matching": Law(1, 1, UNITS, "orthogonal", low=-1),
    "soft_matching": Law(1, 1, UNITS, "orthogonal", low=-1),
    "soft_matching_distance": Law(0, 2, UNITS, "orthogonal"),
    "maximum_match": Law(1, 1, UNITS, "orthogonal", options=(("epsilon", 0.3), ("centred", True))),
}


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Of 6 and 5 channels; some of both are nearly alike, the others are not."""
    x, y = related(300, 6, 5, noise=1.0)
    rng = np.random.default_rng(1)
    y[:, :2] = x[:, 3:5] + 0.2 * rng.standard_normal((300, 2))
    return x, y


def value(name: str, x: np.ndarray, y: np.ndarray) -> float:
    return float(getattr(pc, name.split()[0])(x, y, **dict(LAWS[name].options)))


def mapped(kind: str, x: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(2)
    width = x.shape[1]
    if kind == "bent":
        return (x - x.mean(0)) ** 3
    if kind == "units":
        return x[:, rng.permutation(width)] * rng.uniform(0.1, 9.0, width) + rng.normal(0, 3, width)
    rotation = np.linalg.qr(rng.standard_normal((width, width)))[0]
    return (7.0 * x if kind == "orthogonal" else x * rng.uniform(0.1, 9.0, width)) @ rotation + 2.0


@pytest.mark.parametrize("name", LAWS)
def test_of_itself_and_within_the_range(name: str) -> None:
    x, y = pair()
    law = LAWS[name]
    assert value(name, x, x) == pytest.approx(law.own, abs=1e-6)
    rng = np.random.default_rng(3)
    for a, b in ((x, y), (x, -x), (rng.standard_normal((40, 6)), rng.standard_normal((40, 5))), (x[:4], y[:4])):
        assert law.low <= value(name, a, b) <= law.high + 1e-12
    if name not in ("maximum_match", "hard_matching"):
        assert abs(value(name, x, y) - law.own) > 1e-2


@pytest.mark.parametrize("name", LAWS)
def test_symmetry(name: str) -> None:
    x, y = pair()
    assert (value(name, y, x) == pytest.approx(value(name, x, y), abs=1e-9)) is LAWS[name].symmetric


@pytest.mark.parametrize("name", LAWS)
def test_what_changes_it_and_what_does_not(name: str) -> None:
    x, y = pair()
    law = LAWS[name]
    before = value(name, x, y)
    for kind in law.kept:
        assert value(name, mapped(kind, x), y) == pytest.approx(before, abs=1e-7), kind
        assert value(name, x, mapped(kind, y)) == pytest.approx(before, abs=1e-7), kind
    assert abs(value(name, mapped(law.changed, x), y) - before) > 5e-3


@pytest.mark.parametrize("name", LAWS)
def test_dead_channels_change_nothing(name: str) -> None:
    x, y = pair()
    dead = np.insert(x, [0, 3], [0.0, -10.1], axis=1)
    assert value(name, dead, y) == pytest.approx(value(name, x, y), abs=1e-9)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("level", [0.0, -1000.1])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_layer_that_died_whole_has_no_value(name: str, level: float, precision: str) -> None:
    x, y = related(50, 6, 4)
    dead = np.full((50, 5), level)
    options = dict(LAWS[name].options)
    for a, b in ((x, dead), (dead, y), (dead, dead)):
        assert math.isnan(float(getattr(pc, name.split()[0])(covariance(a, b, precision), **options)))


def test_the_maximum_match_with_means_knows_no_dead_layer_either() -> None:
    x, _ = related(50, 6, 4)
    assert math.isnan(pc.maximum_match(x, np.full((50, 5), 3.0)).similarity)


@pytest.mark.parametrize("name", [name for name in LAWS if " " not in name])
def test_a_batch_equals_one_by_one(name: str) -> None:
    pairs = [related(200, 8, 6, noise=noise, seed=seed) for seed, noise in enumerate((0.1, 1.0, 5.0))]
    for _, y in pairs[1:]:
        y[:, 4:] = 0.0  # another rank
    pairs[2][1][:] = 1.0
    x = pairs[0][0]
    singles = [covariance(x, y) for _, y in pairs]
    stacked = {f: torch.stack([getattr(c, f) for c in singles]) for f in ("mean_y", "yy", "xy", "norms")}
    batch = pc.Covariance(200, mean_x=singles[0].mean_x, xx=singles[0].xx, **stacked, precision="float64")
    score = find_metrics(name)[name]
    found, expected = score(batch), [score(one) for one in singles]
    np.testing.assert_allclose(found.value, [one.value for one in expected], atol=1e-12)
    for side in ("kept_x", "kept_y"):
        kept = getattr(found, side)
        assert (None if kept is None else kept.expand(3).tolist() if torch.is_tensor(kept) else [kept] * 3) == (
            None if kept is None else [getattr(one, side) for one in expected]
        )


@pytest.mark.cuda
@pytest.mark.parametrize("name", LAWS)
def test_cuda_agrees_with_the_host(name: str) -> None:
    cov = covariance(*pair())
    fields = ("mean_x", "mean_y", "xx", "yy", "xy", "norms")
    moved = pc.Covariance(cov.count, **{f: getattr(cov, f).cuda() for f in fields}, precision="float64")
    metric, options = getattr(pc, name.split()[0]), dict(LAWS[name].options)
    assert float(metric(moved, **options)) == pytest.approx(float(metric(cov, **options)), abs=1e-9)
