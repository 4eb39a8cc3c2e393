"""The CUDA covariance kernels, emulated, on many channels and tiles, and on memory further apart than 32 bits count."""

from __future__ import annotations

import numpy as np
import pytest

from .build import ORDERS, EmulationError, build, run
from .test_covariance import DTYPES, NOTHING, View, close, make, means, update


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


FAR = 1 << 31  # elements; an offset that 32 bits cut would be in the memory too, at another element


@pytest.mark.parametrize(
    ("channel", "inner", "middle", "outer"),
    [
        ((20, 8), (8, 1), (1, 0), (2, FAR)),  # planes, copied 16 bytes at a time
        ((20, 7), (7, 1), (1, 0), (2, FAR + 5)),
        ((20, FAR // 16 + 4), (8, 1), (1, 0), (2, 8)),
        ((36, 1), (5, FAR // 4 + 12), (1, 0), (1, 0)),  # rows, copied 16 bytes at a time
        ((35, 1), (5, FAR // 4 + 1), (1, 0), (1, 0)),
        ((3, 2), (2, 6), (2, FAR // 2 + 3), (2, FAR + 1)),
    ],
)
def test_elements_more_than_2_to_the_31_apart(program, channel, inner, middle, outer):
    rng = np.random.default_rng(23)
    x = rng.standard_normal((outer[0] * middle[0] * inner[0], channel[0])).astype(np.float32)
    view = View(x, x, 1, "float32")
    shift = means([view])
    arrays = [x, shift[0], np.zeros(channel[0]), np.zeros((channel[0], channel[0])), np.zeros(0)]
    scalars = [3, 0, 0, 1, 1, DTYPES["float32"], *channel, *inner, *middle, *outer, 0, 0, 0]
    out = run(program, scalars, [*arrays, np.array([NOTHING], np.uint64)])
    assert int(out[-1][0]) == NOTHING
    close([view], [(0, 0)], shift, ([out[2]], [out[3]]), 4e-7)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("float64", [False, True])
def test_two_streams_beside_each_other(program, order, float64):
    rng = np.random.default_rng(24)
    scalars, arrays, alone = [4, float64], [], []
    for layout in ("nchw", "channels_last"):
        views = [make(rng, (20, 70, 3, 3), layout), make(rng, (20, 33, 3, 3), layout)]
        shifts = means(views)
        alone.append(update(program, views, [(0, 1)], shifts, float64=float64))
        for view, shift in zip(views, shifts, strict=True):
            scalars += view.scalars()
            arrays += [view.memory, shift, np.zeros(view.channels)]
        arrays += [np.zeros((70, 33)), np.array([NOTHING], np.uint64)]
    out = run(program, scalars, arrays, order)
    for beside, (sums, grams, *_) in zip((out[:8], out[8:]), alone, strict=True):
        assert beside[7][0] == NOTHING
        assert np.array_equal(beside[2], sums[0])
        assert np.array_equal(beside[5], sums[1])
        assert np.array_equal(beside[6], grams[0])
