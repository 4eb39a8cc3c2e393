"""L1 and ADMM inside the CUDA kernels of the optimizer steps, emulated on the host, against float64 NumPy."""

import numpy as np
import pytest

from .build import ORDERS, build, run

CODES = {np.float32: 0, np.float64: 1, np.float16: 2}
SIZES = [0, 1, 5, 4096, 4099, 9000]  # a chunk holds 4096
# pull, l1, threshold, whether there is an anchor; a binding may give all of them at once
KINDS = {"l1": (0, 0, 0.25, 0), "l1_loss": (0, 0.5, 0, 0), "admm": (0.75, 0, 0, 1), "all": (0.5, 0.25, 0.125, 1)}
ADAM = (0.9, 0.99, 1e-8, 5e-4, 0.999)  # beta1, beta2, epsilon, l2, shrink
METHODS = {"adam": (), "sgd": (0.0, 0.0, False), "momentum": (0.9, 0.1, False), "nesterov": (0.9, 0.0, True)}
RATE = 0.125


@pytest.fixture(scope="module")
def program(cuda_host_folder):
    return build(cuda_host_folder, "optimizers")


class Tensors:
    """Weights, some of them 0, with all that a step takes; masked entries are dirty. Every second tensor is drawn."""

    def __init__(self, dtype, sizes, method, penalty, offset=0, seed=0):
        rng = np.random.default_rng(seed)
        self.dtype, self.sizes, self.method, self.offset = dtype, sizes, method, offset
        self.real = real = np.float64 if dtype is np.float64 else np.float32
        self.penalties = [penalty if i % 2 else (0, 0, 0, 0) for i in range(len(sizes))]
        self.each, self.anchors = [], []
        for size in sizes:
            mask, gradient = rng.random(size) < 0.6, rng.standard_normal(size).astype(dtype)
            gradient[: size // 4][~mask[: size // 4]] = np.nan
            weight = np.where(rng.random(size) < 0.2, 0, rng.standard_normal(size)).astype(dtype)
            moments = [rng.random(size).astype(real) for _ in range(2 if method == "adam" else 1)]
            self.each.append([weight, gradient, *moments, mask])
            self.anchors.append(rng.standard_normal(size).astype(real))

    def step(self, program, order=0, frozen=False, on_device=False, drawn=True):
        """The kernel's weights, moments and all else, by tensor; a rate on the device multiplies the thresholds there."""
        adam, offset = self.method == "adam", self.offset
        rule = (
            [*ADAM] if adam else [0.0 if on_device else RATE, *METHODS[self.method][:2], 5e-4, METHODS[self.method][2]]
        )
        scalars = [(0 if adam else 1) + 2 * drawn, CODES[self.dtype], *rule, frozen, on_device]
        scalars += [0.0, len(self.sizes)] if adam else [len(self.sizes)]
        for i, size in enumerate(self.sizes):
            own = (
                [*self.scales(i), size, offset, True]
                if adam
                else [i % 3 == 0, size, offset, True, self.method != "sgd"]
            )
            scalars += own
        arrays = [np.r_[np.ones(offset, a.dtype), a] for tensor in self.each for a in tensor]
        if on_device:
            arrays += [np.array([2], np.float32)] * adam + [np.array([RATE], np.float32)]
        if drawn:
            for pull, l1, threshold, anchored in self.penalties:
                scalars += [pull, l1, threshold / RATE if on_device else threshold, anchored]
            arrays += [np.r_[np.ones(offset, a.dtype), a] for a in self.anchors]
        got, width = run(program, scalars, arrays, order), len(self.each[0]) if self.each else 0
        assert all((a[:offset] == 1).all() for a in got[: width * len(self.sizes)])
        return [[a[offset:] for a in got[width * i : width * (i + 1)]] for i in range(len(self.sizes))]

    def scales(self, i):
        return 0.01 * (i % 7 + 1), 1.0 + i % 7

    def expected(self, i, frozen=False, scales=None):
        """Weight and moments of a tensor after the step, in float64."""
        w, g, *moments = (a.astype(np.float64) for a in self.each[i][:-1])
        keep, (pull, l1, threshold, anchored) = self.each[i][-1], self.penalties[i]
        g = np.nan_to_num(g) + 5e-4 * w + l1 * np.sign(w)
        if anchored:
            g = g + pull * (w - self.anchors[i])
        if self.method == "adam":
            (step_size, root_scale), (beta1, beta2, epsilon, _, shrink) = scales or self.scales(i), ADAM
            shrink = 1.0 if scales else shrink
            moments = [beta1 * moments[0] + (1 - beta1) * g, beta2 * moments[1] + (1 - beta2) * g**2]
            new = w * shrink - step_size * moments[0] / (np.sqrt(moments[1]) * root_scale + epsilon)
        else:
            momentum, dampening, nesterov = METHODS[self.method]
            direction = g
            if momentum:
                moments = [g if i % 3 == 0 else momentum * moments[0] + (1 - dampening) * g]
                direction = g + momentum * moments[0] if nesterov else moments[0]
            new = w - RATE * direction
        new = np.sign(new) * np.maximum(np.abs(new) - threshold, 0)
        moved = [np.where(keep, m, 0) for m in moments] if self.method != "sgd" else moments
        return [np.where(keep, new, w if frozen else 0), *moved]

    def assert_close(self, got, i, frozen=False, scales=None):
        rtol, atol = {np.float32: (1e-6, 1e-6), np.float64: (1e-14, 1e-14), np.float16: (6e-4, 1e-6)}[self.dtype]
        weight, *moments = self.expected(i, frozen, scales)
        np.testing.assert_allclose(got[0].astype(np.float64), weight, rtol=rtol, atol=atol)
        tight = 1e-14 if self.real is np.float64 else 1e-6
        for moved, moment in zip(got[2:-1], moments, strict=True):
            np.testing.assert_allclose(moved.astype(np.float64), moment, rtol=tight, atol=tight)
        keep = self.each[i][-1]
        for value in [*got[2:-1]] * (self.method != "sgd") + [got[0]] * (not frozen):
            assert not value[~keep].any()
            assert not np.signbit(value[~keep]).any()
        if frozen:
            np.testing.assert_array_equal(got[0][~keep], self.each[i][0][~keep])


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_penalties_are_part_of_the_step(program, method, kind, dtype):
    for case, order in enumerate(ORDERS):
        frozen, offset = bool(case % 2), (0, 1)[case // 2]
        tensors = Tensors(dtype, SIZES, method, KINDS[kind], offset, seed=case)
        got, plain = (tensors.step(program, order, frozen, drawn=drawn) for drawn in (True, False))
        for i in range(len(SIZES)):
            tensors.assert_close(got[i], i, frozen)
            if i % 2 == 0:  # not drawn: the plain step, to the bit
                assert all(a.tobytes() == b.tobytes() for a, b in zip(got[i], plain[i], strict=True))
        if KINDS[kind][2]:
            weight, keep = got[5][0], tensors.each[5][-1]
            zero = weight[keep] == 0
            assert 0 < zero.sum() < keep.sum()
            assert not np.signbit(weight[keep][zero]).any()


@pytest.mark.parametrize("order", ORDERS[:3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["adam", "momentum"])
def test_a_threshold_is_times_the_rate_that_lies_on_the_device(program, method, kind, order):
    tensors = Tensors(np.float32, [3, 300], method, KINDS[kind])
    got = tensors.step(program, order, on_device=True)
    scales = (RATE / (1 - 0.9**3), 1 / np.sqrt(1 - 0.99**3)) if method == "adam" else None  # the third step
    for i in range(2):
        tensors.assert_close(got[i], i, scales=scales)


@pytest.mark.parametrize("count", [98, 771])  # of which a half is drawn: tables hold 48 or 384 of them
@pytest.mark.parametrize("method", ["adam", "momentum"])
def test_more_tensors_than_one_table_holds(program, method, count):
    tensors = Tensors(np.float32, np.random.default_rng(count).integers(0, 9, count), method, KINDS["all"])
    tensors.penalties[1] = (0, 0, 0.5, 0)  # one of other numbers
    got = tensors.step(program)
    for i in range(count):
        tensors.assert_close(got[i], i)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_number_stays_none(program, method):
    tensors = Tensors(np.float32, [0, 8], method, KINDS["l1"])
    tensors.each[1][1][:], tensors.each[1][-1][:] = [np.nan] * 4 + [1.0] * 4, True
    weight = tensors.step(program)[1][0]
    assert np.isnan(weight).tolist() == [True] * 4 + [False] * 4
