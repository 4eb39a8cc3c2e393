"""TwoNN on manifolds of known dimension, on duplicates and dead layers, and per layer of a network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from networks import IMAGES, network
from torch import Tensor, nn

import prunecca as pc
from prunecca import dimension

pytestmark = pytest.mark.usefixtures("one_thread")


def uniform(dimension: int, ambient: int, count: int = 1000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((count, dimension)) @ rng.standard_normal((dimension, ambient))


def by_hand(x: np.ndarray, fraction: float) -> float:
    """Facco et al. 2017, on the full matrix of distances."""
    distances = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    near = np.sort(distances, axis=1)
    mu = np.sort(near[:, 2] / near[:, 1])
    used = min(math.ceil(fraction * len(mu)), len(mu) - 1)
    a = np.log(mu)
    b = -np.log(1 - np.arange(1, len(mu) + 1)[:used] / len(mu))
    return float((a[:used] * b).sum() / (a[:used] ** 2).sum())


@pytest.mark.parametrize("fraction", [0.5, 0.9, 1.0])
def test_agrees_with_the_full_matrix_of_distances(fraction: float) -> None:
    x = uniform(3, 7, 150)
    assert pc.intrinsic_dimension(x, fraction=fraction).dimension == pytest.approx(by_hand(x, fraction), rel=1e-9)


@pytest.mark.parametrize(("dimension", "ambient"), [(1, 3), (2, 20), (5, 50)])
def test_dimension_of_a_plane_sheet(dimension: int, ambient: int) -> None:
    result = pc.intrinsic_dimension(uniform(dimension, ambient))
    assert abs(result.dimension - dimension) < 0.1 * dimension
    assert 0 < result.error < 0.12 * dimension
    assert (result.count, result.duplicates) == (1000, 0)


def test_dimension_of_curved_manifolds() -> None:
    rng = np.random.default_rng(0)
    sphere = rng.standard_normal((1500, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    t, height = 1.5 * np.pi * (1 + 2 * rng.random(1500)), 21 * rng.random(1500)
    roll = np.stack([t * np.cos(t), height, t * np.sin(t)], 1)
    for manifold in (sphere, roll):
        assert pc.intrinsic_dimension(manifold).dimension == pytest.approx(2, abs=0.25)


def test_error_is_about_the_scatter_of_independent_samples() -> None:
    results = [pc.intrinsic_dimension(uniform(2, 5, 200, seed), seed=seed) for seed in range(15)]
    scatter = np.std([r.dimension for r in results], ddof=1)
    assert 0.7 * scatter < np.mean([r.error for r in results]) < 2.5 * scatter


def test_neither_rotation_nor_scale_nor_a_far_mean_matter() -> None:
    x = uniform(4, 6)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    expected = pc.intrinsic_dimension(x).dimension
    assert pc.intrinsic_dimension(1e-3 * x @ rotation + 1.0).dimension == pytest.approx(expected, rel=1e-6)
    single = torch.from_numpy(x).float() + 100.0
    assert pc.intrinsic_dimension(single).dimension == pytest.approx(expected, rel=0.02)


def test_repeated_datapoints_are_left_out() -> None:
    x = uniform(2, 5, 400)
    expected = pc.intrinsic_dimension(x)
    result = pc.intrinsic_dimension(np.concatenate([x, x[:100], x[:50]]))
    assert result.dimension == pytest.approx(expected.dimension, rel=1e-12)
    assert (result.count, result.duplicates) == (400, 150)


@pytest.mark.parametrize("shape", [(200, 3), (0, 3), (4, 0), (1, 1)])
def test_the_first_of_equal_rows_is_found(shape: tuple[int, int]) -> None:
    x = torch.randint(-1, 2, shape).float()
    x[x == 0] = torch.where(torch.rand(int((x == 0).sum())) < 0.5, 0.0, -0.0)  # equal, with other bits
    first: dict[tuple[float, ...], int] = {}
    for k, row in enumerate(x.tolist()):
        first.setdefault(tuple(row), k)
    assert dimension._first_of_equals(x) == list(first.values())


def test_images_are_flattened_and_equal_seeds_give_equal_errors() -> None:
    x = torch.randn(100, 3, 4, 4)
    first, again, other = (pc.intrinsic_dimension(y, seed=s) for y, s in ((x, 0), (x.flatten(1), 0), (x, 1)))
    assert first == again
    assert (other.dimension, other.error) != (first.dimension, first.error)
    assert other.dimension == first.dimension


@pytest.mark.parametrize("x", [np.ones((50, 4)), np.eye(4), np.zeros((0, 3))])
def test_a_dead_layer_has_none(x: np.ndarray) -> None:
    result = pc.intrinsic_dimension(x)
    assert math.isnan(result.dimension)
    assert math.isnan(result.error)
    assert result.count + result.duplicates == len(x)


def test_a_nearly_dead_layer_has_the_dimension_of_what_is_alive() -> None:
    alive = uniform(2, 3, 300)
    x = np.concatenate([alive, 1e-30 * uniform(1, 3, 100)]).astype(np.float32)
    result = pc.intrinsic_dimension(x)
    assert result.count + result.duplicates == 400
    assert result.duplicates >= 99, "numbers that vanish beside the mean are one datapoint"
    assert result.dimension == pytest.approx(pc.intrinsic_dimension(alive).dimension, rel=0.05)


@pytest.mark.parametrize("far", [1e3, 1e4, 1e6])
def test_far_groups_have_the_dimension_that_all_distances_give(far: float) -> None:
    x = uniform(5, 8, 300)
    x[150:] += far  # |x|**2 - 2 x.y in float32 is all rounding within a group
    single = x.astype(np.float32)
    expected = by_hand(np.unique(single, axis=0).astype(np.float64), 0.9)
    assert pc.intrinsic_dimension(single).dimension == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", ["f2", "f4"])
@pytest.mark.parametrize("scale", [1.0, 1e-22])
def test_the_dimension_of_rounded_points_is_that_of_the_rounded_points(dtype: str, scale: float) -> None:
    x = (uniform(3, 6, 300) * (scale if dtype == "f4" else 1.0)).astype(dtype)
    distinct = np.unique(x, axis=0).astype(np.float64)
    result = pc.intrinsic_dimension(np.concatenate([x, x[:20]]))
    assert (result.count, result.duplicates) == (len(distinct), 320 - len(distinct))
    assert result.dimension == pytest.approx(by_hand(distinct / scale, 0.9), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-20, 1e25])
def test_huge_and_tiny_activations_have_the_same_dimension(scale: float) -> None:
    x = uniform(3, 6, 300).astype(np.float32)
    scaled = x * np.float32(scale)
    assert pc.intrinsic_dimension(scaled).dimension == pytest.approx(pc.intrinsic_dimension(x).dimension, rel=1e-3)


def test_equidistant_points_have_none() -> None:
    assert math.isnan(pc.intrinsic_dimension(np.eye(8)).dimension)


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.ones(5), {}, r"shape \(5,\); expected \(datapoints, ...\)"),
        (np.full((9, 2), np.nan), {}, "NaN or infinity"),
        (np.eye(9), {"fraction": 0.0}, "fraction is 0.0"),
    ],
)
def test_errors_say_what_was_wrong(x: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pc.intrinsic_dimension(x, **options)


def test_every_layer_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network().train()
    loader = [(part, 0) for part in IMAGES.split(25)]
    table = pc.intrinsic_dimensions(model, loader)
    assert table["layer"].tolist() == ["2", "3", "5", "8"]
    assert table["kind"].tolist() == ["conv", "pool", "conv", "fc"]
    assert table["features"].tolist() == [6 * 144, 6 * 36, 8 * 36, 10]
    seen = []
    model.eval()[5].register_forward_hook(lambda m, a, out: seen.append(out))
    with torch.no_grad():
        model(IMAGES)
    assert table["pc_dimension"][2] == pc.pc_dimension(seen[0])
    assert table["dimension"][2] == pytest.approx(pc.intrinsic_dimension(seen[0]).dimension, rel=1e-3)
    monkeypatch.setattr(dimension, "_STORED_BYTES", 1)  # layer by layer
    one_by_one = pc.intrinsic_dimensions(model, iter(loader))
    assert one_by_one["dimension"].tolist() == pytest.approx(table["dimension"].tolist(), rel=1e-6)
    assert pc.intrinsic_dimensions(model, loader, "8", max_datapoints=30)["count"].tolist() == [30]
    with pytest.raises(ValueError, match="the loader gave no inputs"):
        pc.intrinsic_dimensions(model, [])


@pytest.mark.parametrize("shape", [(200, 12), (9, 40), (30, 30)])
@pytest.mark.parametrize("variance", [0.3, 0.9, 0.999])
def test_principal_components_are_those_of_numpy(shape: tuple[int, int], variance: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape) * np.geomspace(1, 1e-3, shape[1]) + 5
    held = np.cumsum(np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2)
    expected = int(np.argmax(held >= variance * held[-1])) + 1
    assert pc.pc_dimension(x, variance=variance) == expected
    for scale in (1e-160, 1e150):
        assert pc.pc_dimension(scale * (x - 3), variance=variance) == expected
    assert pc.pc_dimension(torch.from_numpy(x).reshape(shape[0], -1, 2), variance=variance) == expected
    cov = pc.StreamingCovariance(precision="float64")
    cov.update(x[:, :3], x)
    assert pc.pc_dimension(cov.finalize(), variance=variance, side="y") == expected


def test_principal_components_in_parts_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    x = uniform(6, 9, 50)
    expected = pc.pc_dimension(x), pc.pc_dimension(x.T.copy())
    monkeypatch.setattr(dimension, "_BLOCK", 7)
    assert (pc.pc_dimension(x), pc.pc_dimension(x.T.copy())) == expected
    cov = [pc.StreamingCovariance(), pc.StreamingCovariance()]
    for one, y in zip(cov, (x, x[:, :1] * np.ones((1, 9))), strict=True):
        one.update(y, y)
    first, second = (one.finalize() for one in cov)
    fields = ("mean_x", "mean_y", "xx", "yy", "xy")
    batch = pc.Covariance(50, **{f: torch.stack([getattr(first, f), getattr(second, f)]) for f in fields})
    assert pc.pc_dimension(batch).tolist() == [expected[0], 1]


def test_equal_eigenvalues_hold_equal_parts_and_constants_none() -> None:
    x = np.concatenate([np.eye(4), -np.eye(4)])
    assert [pc.pc_dimension(x, variance=v) for v in (0.25, 0.26, 0.5, 0.75)] == [1, 2, 2, 3]
    assert pc.pc_dimension(np.full((50, 3), 0.1)) == 0
    assert pc.pc_dimension(np.full((3, 50), 1e30, np.float32)) == 0


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.ones(5), {}, r"shape \(5,\); expected \(datapoints, ...\)"),
        (np.ones((1, 4)), {}, "two datapoints or more"),
        (np.full((9, 2), np.nan), {}, "NaN or infinity"),
        (np.eye(9), {"variance": 1.0}, "variance is 1.0; expected a part of it between 0 and 1"),
        (np.eye(9), {"side": "z"}, "side is 'z'; expected 'x' or 'y'"),
    ],
)
def test_what_has_no_principal_components_is_refused(x: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pc.pc_dimension(x, **options)


class _SequenceFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fold = nn.GRU(3, 4), nn.Flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(x)[0]
        return self.fold(out)


def test_datapoints_of_a_network_that_takes_sequences_first() -> None:
    torch.manual_seed(0)
    model, x = _SequenceFirst().eval(), torch.randn(7, 60, 3)
    batches = [part.clone() for part in x.split(20, 1)]
    given = pc.intrinsic_dimensions(model, batches, ["rnn"])
    with torch.no_grad():
        points = model.rnn(x)[0].transpose(0, 1).flatten(1)
    assert given["features"].tolist() == [28]
    assert given["dimension"][0] == pytest.approx(pc.intrinsic_dimension(points).dimension, rel=1e-5)
    with pytest.raises(ValueError, match="has no point for each; leave the layer out"):
        pc.intrinsic_dimensions(model, batches, ["fold"])
