"""The CUDA covariance kernels, emulated, on many channels and tiles, and on memory further apart than 32 bits count."""

from __future__ import annotations

import numpy as np
import pytest

from .build import EmulationError, build
from .test_covariance import NOTHING, View, close, make, means, update


@pytest.fixture(scope="module")
def program(cuda_host_folder):
    return build(cuda_host_folder, "covariance")


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_512_channels_and_more(program, layout):
    rng = np.random.default_rng(20)
    views = [make(rng, (2, 512, 3, 3), layout), make(rng, (2, 30, 3, 3), layout, mean=5.0)]
    shifts = means(views)
    sums, grams, bad, _ = update(program, views, [(0, 1)], shifts)
    assert bad == NOTHING
    close(views, [(0, 1)], shifts, (sums, grams), 2e-7)


def test_more_tiles_than_one_launch_takes(cuda_host_folder):
    # 5 panels of 64 channels meet in 15 tiles; a launch takes 1024, and here 8.
    program = build(cuda_host_folder, "covariance", "-DPRUNECCA_MOST_TILES=8")
    rng = np.random.default_rng(21)
    x = rng.standard_normal((7, 300)).astype(np.float32)
    view = View(x, x, 1, "float32")
    shifts = means([view])
    # In float64, since it is the tiles that matter: of so many entries of so few rows some are off by more than 4e-7.
    close([view], [(0, 0)], shifts, update(program, [view], [(0, 0)], shifts, float64=True)[:2], 1e-14)


def test_more_channels_than_the_panels_of_a_plan(program):
    rng = np.random.default_rng(22)
    views = [make(rng, (1, 9000)), make(rng, (1, 8000))]
    with pytest.raises(EmulationError, match="cuda error 1"):
        update(program, views, [], means(views))
