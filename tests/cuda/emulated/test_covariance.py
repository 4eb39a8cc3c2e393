"""The CUDA covariance kernels, run on the host by the emulation, against plain float64 sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from .build import ORDERS, EmulationError, build, run

DTYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
NOTHING = np.iinfo(np.uint64).max


def to_bfloat16(x):
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bfloat16(x):
    return (x.astype(np.uint32) << 16).view(np.float32)


@dataclass
class View:
    """An activation as memory: `memory` holds it, `array` is a strided NumPy view of that, channels on `axis`."""

    memory: np.ndarray
    array: np.ndarray
    axis: int
    dtype: str

    @property
    def channels(self):
        return self.array.shape[self.axis]

    @property
    def matrix(self):
        """rows x channels, float64."""
        a = np.moveaxis(self.array, self.axis, -1).reshape(-1, self.channels)
        return (from_bfloat16(a) if self.dtype == "bfloat16" else a).astype(np.float64)

    def scalars(self):
        """What a binding would say of it: dimensions that continue each other are one."""
        item = self.array.itemsize
        dims = []
        for d in reversed(range(self.array.ndim)):
            n, stride = self.array.shape[d], self.array.strides[d] // item
            if d == self.axis or (n == 1 and self.array.ndim > 2):
                continue
            if dims and stride == dims[-1][0] * dims[-1][1]:
                dims[-1] = (dims[-1][0] * n, dims[-1][1])
            else:
                dims.append((n, stride))
        dims += [(1, 0)] * (3 - len(dims))
        offset = (self.array.__array_interface__["data"][0] - self.memory.__array_interface__["data"][0]) // item
        return [DTYPES[self.dtype], self.channels, self.array.strides[self.axis] // item, *sum(dims, ()), offset]


def make(rng, shape, layout="nchw", dtype="float32", mean=0.0):
    """A random activation whose logical shape is (N, C, ...)."""
    x = rng.standard_normal(shape) * rng.uniform(0.5, 2, (shape[1],) + (1,) * (len(shape) - 2)) + mean
    x[:, 0] = np.maximum(x[:, 0], 0)  # one channel as a rectifier leaves it
    x = to_bfloat16(x) if dtype == "bfloat16" else x.astype(dtype)
    if layout == "nchw":
        memory = np.ascontiguousarray(x)
        return View(memory, memory, 1, dtype)
    if layout == "channels_last":
        memory = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        return View(memory, np.moveaxis(memory, -1, 1), 1, dtype)
    if layout == "transposed":  # (N, C) whose columns are contiguous
        memory = np.ascontiguousarray(x.T)
        return View(memory, memory.T, 1, dtype)
    if layout == "sliced":  # every second channel of a larger array, rows after the first
        memory = np.zeros((shape[0] + 1, 2 * shape[1] + 1, *shape[2:]), x.dtype)
        memory[1:, 1::2] = x
        return View(memory, memory[1:, 1::2], 1, dtype)
    assert layout == "offset"  # starts one element into its memory, so that nothing is aligned
    memory = np.zeros(x.size + 1, x.dtype)
    memory[1:] = x.ravel()
    return View(memory, memory[1:].reshape(shape), 1, dtype)


def update(program, views, pairs, shifts, *, float64=False, batch=0, order=0, states=None, counted=None, norms=False):
    """One emulated update; returns sums, grams, the note of what was not finite, and norms (which begin as ones)."""
    scalars = [1, float64, batch, len(views), len(pairs)]
    arrays = []
    channels = [v.channels for v in views]
    states = states or ([np.zeros(c) for c in channels], [np.zeros((channels[i], channels[j])) for i, j in pairs])
    for v, (view, shift, total) in enumerate(zip(views, shifts, states[0], strict=True)):
        scalars += view.scalars()
        arrays += [
            view.memory,
            np.asarray(shift, np.float64),
            total if counted is None or v in counted else np.zeros(0),
        ]
    for (i, j), gram in zip(pairs, states[1], strict=True):
        scalars += [i, j]
        arrays += [gram, np.ones(1 + channels[i] + channels[j] if norms else 0)]
    out = run(program, scalars, [*arrays, np.array([NOTHING], np.uint64)], order)
    n = 3 * len(views)
    return out[2:n:3], out[n:-1:2], int(out[-1][0]), out[n + 1 : -1 : 2]


def expected(views, pairs, shifts):
    centred = [v.matrix - np.asarray(s, np.float64) for v, s in zip(views, shifts, strict=True)]
    return [c.sum(0) for c in centred], [centred[i].T @ centred[j] for i, j in pairs]


def close(views, pairs, shifts, got, tolerance):
    """Error of a matrix relative to its norm; and, twice as lenient, of each entry relative to its two channels."""
    sums, grams = expected(views, pairs, shifts)
    centred = [v.matrix - np.asarray(s, np.float64) for v, s in zip(views, shifts, strict=True)]
    norms = [np.maximum(np.linalg.norm(c, axis=0), 1e-30) for c in centred]
    for v, (a, b) in enumerate(zip(got[0], sums, strict=True)):
        assert np.max(np.abs(a - b) / (norms[v] * np.sqrt(len(centred[v])))) < tolerance
    for (i, j), a, b in zip(pairs, got[1], grams, strict=True):
        assert np.linalg.norm(a - b) / max(np.linalg.norm(norms[i]) * np.linalg.norm(norms[j]), 1e-30) < tolerance
        assert np.max(np.abs(a - b) / np.outer(norms[i], norms[j])) < 2 * tolerance
        if i == j:
            np.testing.assert_array_equal(a, a.T)


def means(views):
    return [v.matrix.mean(0).astype(np.float32).astype(np.float64) for v in views]


@pytest.fixture(scope="module")
def program(cuda_host_folder):
    return build(cuda_host_folder, "covariance")


ALL = [(0, 0), (0, 1), (1, 1)]
SHAPES = [
    # x, y: logical shapes (N, C, ...); each names what it is there for
    pytest.param((3, 16, 16, 16), (3, 16, 16, 16), id="paper_first_layer"),
    pytest.param((2, 5, 9, 7), (2, 3, 9, 7), id="odd_everything"),
    pytest.param((40, 64, 2, 2), (40, 64, 2, 2), id="small_planes"),
    pytest.param((70, 65), (70, 131), id="odd_channels_several_panels"),
    pytest.param((1, 8, 600), (1, 40, 600), id="sequence_one_image"),
    pytest.param((1, 4), (1, 4), id="one_row"),
]


@pytest.mark.parametrize("order", ORDERS[:3])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize(("shape_x", "shape_y"), SHAPES)
def test_float32_agrees_with_float64_sums(program, shape_x, shape_y, layout, order):
    rng = np.random.default_rng(1)
    views = [make(rng, shape_x, layout, mean=1.0), make(rng, shape_y, layout, mean=-30.0)]
    shifts = means(views)
    sums, grams, bad, _ = update(program, views, ALL, shifts, order=order)
    assert bad == NOTHING
    close(views, ALL, shifts, (sums, grams), 2e-7)


@pytest.mark.parametrize("order", ORDERS[:3])
@pytest.mark.parametrize("float64", [False, True], ids=["float32_products", "float64_products"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "sliced", "offset"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_layout(program, dtype, layout, float64, order):
    rng = np.random.default_rng(2)
    views = [make(rng, (5, 24, 6, 6), layout, dtype), make(rng, (5, 12, 6, 6), layout, dtype, mean=2.0)]
    shifts = means(views)
    got = update(program, views, ALL, shifts, float64=float64, order=order)
    # float32 shifts: with float64 products only the order of summation differs
    close(views, ALL, shifts, got[:2], 1e-14 if float64 or dtype == "float64" else 2e-7)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("layout_x", "layout_y"), [("nchw", "channels_last"), ("sliced", "nchw"), ("channels_last", "offset")]
)
def test_views_of_different_layouts_meet(program, layout_x, layout_y, dtype):
    rng = np.random.default_rng(3)
    views = [make(rng, (3, 20, 4, 6), layout_x, dtype), make(rng, (3, 70, 4, 6), layout_y, dtype)]
    shifts = means(views)
    close(views, ALL, shifts, update(program, views, ALL, shifts)[:2], 2e-7)


@pytest.mark.parametrize("float64", [False, True], ids=["float32_products", "float64_products"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("channels", [3, 16, 17, 32, 64])
def test_one_view_of_one_panel(program, channels, layout, float64):
    # Panels of 16, 32 and 64; of the last, two warps share the rows of the part above the diagonal.
    rng = np.random.default_rng(13)
    views = [make(rng, (3, channels, 11, 13), layout, mean=3.0)]
    shifts = means(views)
    got = update(program, views, [(0, 0)], shifts, float64=float64, order=2)
    close(views, [(0, 0)], shifts, got[:2], 1e-14 if float64 else 2e-7)


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "sliced"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("channels", [16, 24, 70])
def test_sixteen_bit_numbers_that_are_not_shifted(program, channels, dtype, layout):
    # One product of each pair is exact: only the sums are rounded.
    rng = np.random.default_rng(14)
    views = [make(rng, (3, channels, 8, 8), layout, dtype, mean=0.5)]
    shifts = [np.zeros(channels)]
    close(views, [(0, 0)], shifts, update(program, views, [(0, 0)], shifts)[:2], 2e-7)
    shifts[0][-1] = 1.0  # the part of one channel is
    close(views, [(0, 0)], shifts, update(program, views, [(0, 0)], shifts)[:2], 2e-7)


def test_transposed_matrix(program):
    rng = np.random.default_rng(4)
    views = [make(rng, (100, 33), "transposed"), make(rng, (100, 10))]
    shifts = means(views)
    close(views, ALL, shifts, update(program, views, ALL, shifts)[:2], 2e-7)


@pytest.mark.parametrize("order", ORDERS[:3])
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "sliced"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms(program, dtype, layout, order):
    rng = np.random.default_rng(9)
    _check_norms(program, [make(rng, (3, 10, 9, 11), layout, dtype), make(rng, (3, 3, 9, 11), layout, dtype)], order)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_norms_of_more_rows_than_one_block_takes(program, layout):
    rng = np.random.default_rng(12)
    _check_norms(program, [make(rng, (5, 2, 29, 31), layout), make(rng, (5, 3, 29, 31), layout)], 0)


def _check_norms(program, views, order):
    shifts = means(views)
    x, y = (v.matrix - s for v, s in zip(views, shifts, strict=True))
    p, q = (x * x).sum(1), (y * y).sum(1)
    got = update(program, views, ALL, shifts, norms=True, order=order)[3]
    want = [[[p @ p], p @ x, p @ x], [[p @ q], q @ x, p @ y], [[q @ q], q @ y, q @ y]]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, 1 + np.concatenate(b), rtol=1e-12, atol=1e-12 * b[0][0])


def test_sums_without_products(program):
    rng = np.random.default_rng(10)
    views = [make(rng, (3, 70, 5, 5))]
    shifts = [np.zeros(70)]
    sums, _, _, _ = update(program, views, [], shifts)
    np.testing.assert_allclose(sums[0], views[0].matrix.sum(0), rtol=0, atol=1e-4)


def test_the_launcher_refuses_what_it_cannot_do(program):
    rng = np.random.default_rng(11)
    x, y = make(rng, (4, 3)), make(rng, (5, 3))
    with pytest.raises(EmulationError, match="cuda error 1"):
        update(program, [x, y], [(0, 1)], means([x, y]))
    with pytest.raises(EmulationError, match="cuda error 1"):
        update(program, [x, x], [(1, 0)], means([x, x]))
    with pytest.raises(EmulationError, match="cuda error 1"):
        update(program, [x] * 9, [(0, 1)], means([x] * 9))


def test_only_what_was_asked_for_is_touched_and_added_to(program):
    rng = np.random.default_rng(5)
    views = [make(rng, (4, 12, 5, 5)) for _ in range(3)]
    shifts = means(views)
    pairs = [(0, 1), (1, 1), (0, 2)]
    states = ([rng.standard_normal(12) for _ in views], [rng.standard_normal((12, 12)) for _ in pairs])
    states[1][1][:] += states[1][1].T.copy()
    sums, grams, _, _ = update(program, views, pairs, shifts, states=states, counted={1})
    right_sums, right_grams = expected(views, pairs, shifts)
    np.testing.assert_allclose(sums[1], states[0][1] + right_sums[1], rtol=0, atol=1e-4)
    for got, before, added in zip(grams, states[1], right_grams, strict=True):
        np.testing.assert_allclose(got, before + added, rtol=0, atol=1e-4)


def test_the_error_stays_flat_when_the_mean_is_large(program):
    rng = np.random.default_rng(6)
    views = [make(rng, (2, 16, 24, 24), mean=1000.0), make(rng, (2, 16, 24, 24))]
    shifts = means(views)
    close(views, ALL, shifts, update(program, views, ALL, shifts)[:2], 2e-7)


def test_many_rows_do_not_drift(program):
    # All products positive: what tensor cores cut from every addend comes out small, by 1.0e-7 where they sum 8 rows, by
    # 1.5e-7 where they sum 16, however many rows there are.
    rng = np.random.default_rng(7)
    x = np.abs(rng.standard_normal((6000, 8))).astype(np.float32)
    view = View(x, x, 1, "float32")
    close([view], [(0, 0)], [np.zeros(8)], update(program, [view], [(0, 0)], [np.zeros(8)])[:2], 1.7e-7)


@pytest.mark.parametrize(("view", "channel", "value"), [(0, 3, np.nan), (1, 0, np.inf), (1, 39, -np.inf)])
def test_a_value_that_is_not_finite_is_noted(program, view, channel, value):
    rng = np.random.default_rng(8)
    views = [make(rng, (2, 4, 3, 3)), make(rng, (2, 40, 3, 3))]
    views[view].memory[1, channel, 2, 2] = value
    shifts = [np.zeros(4), np.zeros(40)]
    bad = update(program, views, ALL, shifts, batch=7)[2]
    assert bad == 7 << 40 | view << 32 | channel
