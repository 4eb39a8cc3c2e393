"""Curvatures of surfaces on which they are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")
Array = np.ndarray[Any, Any]


def sphere(d: int, radius: float, ambient: int, count: int = 1500) -> Array:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, d + 1))
    x *= radius / np.linalg.norm(x, axis=1, keepdims=True)
    return np.concatenate([x, np.zeros((count, ambient - d - 1))], 1) @ rotation(ambient) + 3.0


def rotation(ambient: int) -> Array:
    return np.linalg.qr(np.random.default_rng(7).standard_normal((ambient, ambient)))[0]


def sheet(count: int = 500) -> tuple[Array, Array]:
    return tuple(np.random.default_rng(1).uniform(-0.5, 0.5, (2, count)))


@pytest.mark.parametrize("ambient", [3, 10])
@pytest.mark.parametrize("radius", [0.5, 4.0])
def test_a_sphere_bends_by_the_inverse_of_its_radius(radius: float, ambient: int) -> None:
    bent = pc.curvature(sphere(2, radius, ambient), dimension=2)
    assert bent.principal.shape == (1500, 2)
    assert bent.principal.median(0).values.tolist() == pytest.approx([1 / radius] * 2, rel=0.05)
    for found, expected in (
        (bent.mean, 1 / radius),
        (bent.largest, 1 / radius),
        (bent.mean_absolute, 1 / radius),
        (bent.sectional, 1 / radius**2),
    ):
        assert float(found.median()) == pytest.approx(expected, rel=0.05)


def test_spheres_of_other_dimensions() -> None:
    circle = pc.curvature(sphere(1, 2.0, 5, 200), dimension=1)
    assert circle.principal.flatten().numpy() == pytest.approx(0.5, rel=0.05)
    assert bool(circle.sectional.isnan().all())
    ball = pc.curvature(sphere(3, 2.0, 8, 2000), dimension=3)
    assert float(ball.mean.median()) == pytest.approx(0.5, rel=0.05)
    assert float(ball.sectional.median()) == pytest.approx(0.25, rel=0.12)


@pytest.mark.parametrize("ambient", [3, 6])
def test_a_saddle_at_its_middle(ambient: int) -> None:
    u, v = sheet()
    u[0] = v[0] = 0.0
    x = np.stack([u, v, 0.8 * (u**2 - v**2), *(np.zeros_like(u) for _ in range(ambient - 3))], 1)
    bent = pc.curvature(x @ rotation(ambient), dimension=2)
    assert bent.principal[0].tolist() == pytest.approx([-1.6, 1.6], rel=0.02)
    assert float(bent.mean[0]) == pytest.approx(0.0, abs=0.02)
    assert float(bent.sectional[0]) == pytest.approx(-(1.6**2), rel=0.03)


def test_a_paraboloid_at_every_point() -> None:
    """Away from the middle the tangent is tilted: curvatures of a graph need its slopes."""
    u, v = np.random.default_rng(1).uniform(-1, 1, (2, 3000))
    bent = pc.curvature(np.stack([u, v, (u**2 + v**2) / 2], 1), dimension=2)
    inside = (abs(u) < 0.8) & (abs(v) < 0.8)
    gauss = (1 + u**2 + v**2) ** -2
    assert np.quantile(abs(bent.sectional.numpy() / gauss - 1)[inside], 0.9) < 0.05
    larger, smaller = (1 + u**2 + v**2) ** -0.5, (1 + u**2 + v**2) ** -1.5
    assert np.quantile(abs(bent.principal[:, 1].numpy() / larger - 1)[inside], 0.9) < 0.05
    assert np.quantile(abs(bent.principal[:, 0].numpy() / smaller - 1)[inside], 0.9) < 0.05


def test_two_normals_at_once() -> None:
    """A graph with a form for each of two normals; Gauss's equation adds them up."""
    u, v = 0.2 * np.stack(sheet(800))
    u[0] = v[0] = 0.0
    bent = pc.curvature(np.stack([u, v, (3 * u**2 + v**2) / 2, u * v / 2], 1) @ rotation(4), dimension=2)
    assert float(bent.mean[0]) == pytest.approx(2.0, rel=0.02)
    assert float(bent.sectional[0]) == pytest.approx(3.0 - 0.25, rel=0.02)
    assert bent.principal[0].tolist() == pytest.approx([1.0, 3.0], rel=0.02)


def test_a_plane_is_flat_and_a_cylinder_in_one_direction() -> None:
    u, v = sheet()
    plane = np.stack([u, v, u - v, 2 * v], 1) + 5.0
    bent = pc.curvature(plane, dimension=2)
    assert float(bent.largest.max()) < 1e-6
    assert float(bent.mean.max()) < 1e-6
    assert float(bent.sectional.abs().max()) < 1e-6
    cylinder = np.stack([2 * np.cos(u), 2 * np.sin(u), v], 1)
    bent = pc.curvature(cylinder, dimension=2)
    assert bent.principal.median(0).values.tolist() == pytest.approx([0.0, 0.5], abs=0.01)
    assert float(bent.sectional.median()) == pytest.approx(0.0, abs=0.005)
    assert float(bent.mean.median()) == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("scale", [1e-150, 0.5, 100.0, 1e100])
def test_isometries_change_nothing_and_scales_divide(scale: float) -> None:
    x = sphere(2, 1.0, 5, 200)
    expected = pc.curvature(x, dimension=2)
    found = pc.curvature(scale * (x @ rotation(5)[:, ::-1] - 1.0), dimension=2)
    assert (found.principal * scale).numpy() == pytest.approx(expected.principal.numpy(), rel=1e-6)
    assert (found.mean * scale).numpy() == pytest.approx(expected.mean.numpy(), rel=1e-6)
    if scale > 1e-100:
        assert (found.sectional * scale * scale).numpy() == pytest.approx(expected.sectional.numpy(), rel=1e-6)


def test_the_dimension_is_estimated_and_duplicates_are_left_out() -> None:
    x = sphere(2, 1.0, 6, 600)
    bent = pc.curvature(torch.from_numpy(np.concatenate([x, x[:50]])).float().view(650, 2, 3))
    assert (bent.dimension, bent.neighbours, len(bent.positions)) == (2, 20, 600)
    assert bent.positions.tolist() == list(range(600))
    assert pc.curvature(sphere(1, 1.0, 3, 100)).dimension == 1
    assert pc.curvature(np.random.default_rng(0).random((100, 2))).dimension == 1, "below the number of features"


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (np.ones(5), {}, r"shape \(5,\); expected \(datapoints, ...\)"),
        (np.full((9, 2), np.inf), {}, "NaN or infinity"),
        (np.ones((30, 3)), {}, "x holds 1 distinct points, whose dimension cannot be estimated; give dimension="),
        (sphere(2, 1.0, 3), {"dimension": 3}, "dimension is 3; expected 1 or more, and less than the 3 features"),
        (sphere(2, 1.0, 3), {"dimension": 0}, "dimension is 0; expected 1 or more"),
        (
            sphere(2, 1.0, 3),
            {"dimension": 2, "neighbours": 5},
            "neighbours is 5; expected at least 6, the coefficients",
        ),
        (sphere(2, 1.0, 3, 20), {"dimension": 2}, "x holds 20 distinct points, too few for fits to 20 neighbours"),
        (np.zeros((30, 1)), {"dimension": 1}, "less than the 1 features"),
    ],
)
def test_errors_say_what_was_wrong(x: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pc.curvature(x, **options)
