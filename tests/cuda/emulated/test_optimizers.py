"""The CUDA kernels of the optimizer steps, emulated on the host in several thread orders, against float64 NumPy."""

import numpy as np
import pytest

from .build import ORDERS, build, run

CODES = {np.float32: 0, np.float64: 1, np.float16: 2}
SIZES = [0, 1, 5, 4096, 4099, 9000]  # a chunk holds 4096


@pytest.fixture(scope="module")
def adam(cuda_host_folder):
    return build(cuda_host_folder, "optimizers")


def _tensors(rng, dtype, sizes, moments):
    """Weight, gradient, moments and mask of each tensor; masked entries are dirty, one gradient there is NaN."""
    real = np.float64 if dtype is np.float64 else np.float32
    tensors = []
    for size in sizes:
        mask = rng.random(size) < 0.6
        mask[: size // 4] = False
        gradient = rng.standard_normal(size).astype(dtype)
        if size:
            mask[0], gradient[0] = False, np.nan
        weight = rng.standard_normal(size).astype(dtype)
        tensors.append([weight, gradient, *(rng.random(size).astype(real) for _ in range(moments)), mask])
    return tensors


def _arrays(tensors, offset):
    return [np.r_[np.ones(offset, a.dtype), a] for tensor in tensors for a in tensor]


def _adam(tensor, rule, step_size, root_scale, frozen, masked):
    w, g, m, v = (a.astype(np.float64) for a in tensor[:4])
    beta1, beta2, epsilon, l2, shrink = rule
    g = g + l2 * w
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    new = w * shrink - step_size * m / (np.sqrt(v) * root_scale + epsilon)
    keep = tensor[4] if masked else np.ones(w.size, bool)
    return np.where(keep, new, w if frozen else 0), np.where(keep, m, 0), np.where(keep, v, 0)


def _assert_close(got, expected, dtype):
    # Half-precision weights are rounded once, from a float32 step.
    rtol, atol = {np.float32: (1e-6, 1e-6), np.float64: (1e-14, 1e-14), np.float16: (6e-4, 1e-6)}[dtype]
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", CODES)
def test_adam(adam, dtype, order):
    rng = np.random.default_rng(0)
    rule = (0.9, 0.99, 1e-8, 5e-4, 0.999)
    for frozen, masked, offset in ((False, True, 0), (True, True, 1), (False, False, 0)):
        tensors = _tensors(rng, dtype, SIZES, moments=2)
        if not masked:
            for tensor in tensors:
                tensor[1] = np.nan_to_num(tensor[1])
        steps = [(0.01 * (i + 1), 1.0 + i) for i in range(len(SIZES))]
        scalars = [0, CODES[dtype], *rule, frozen, False, 0, len(SIZES)]
        for (step_size, root_scale), size in zip(steps, SIZES, strict=True):
            scalars += [step_size, root_scale, size, offset, masked]
        got = run(adam, scalars, _arrays(tensors, offset), order)
        for i, (tensor, scales) in enumerate(zip(tensors, steps, strict=True)):
            expected = _adam(tensor, rule, *scales, frozen, masked)
            for place, reference in zip((0, 2, 3), expected, strict=True):
                moved = got[5 * i + place]
                assert (moved[:offset] == 1).all()
                _assert_close(moved[offset:], reference, dtype if place == 0 else moved.dtype.type)
                if masked and (place or not frozen):
                    assert not moved[offset:][~tensor[4]].any()
                    assert not np.signbit(moved[offset:][~tensor[4]]).any()


@pytest.mark.parametrize("count", [49, 421])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_more_tensors_than_one_table_holds(adam, kind, count):
    # Tables hold 48 or 420; each tensor has numbers of its own, and begins at another alignment.
    rng = np.random.default_rng(count)
    sizes = rng.integers(0, 9, count)
    tensors = _tensors(rng, np.float32, sizes, moments=2 if kind == "adam" else 1)
    offsets = rng.integers(0, 4, count)
    arrays = [np.r_[np.ones(o, a.dtype), a] for t, o in zip(tensors, offsets, strict=True) for a in t]
    if kind == "adam":
        rule = (0.9, 0.99, 1e-8, 5e-4, 0.999)
        numbers = [
            (0.001 * (i + 1), 1.0 + i, size, o, True) for i, (size, o) in enumerate(zip(sizes, offsets, strict=True))
        ]
        got = run(adam, [0, 0, *rule, False, False, 0, count, *sum(numbers, ())], arrays)
        expected = [_adam(t, rule, *n[:2], False, True) for t, n in zip(tensors, numbers, strict=True)]
        places, width = (0, 2, 3), 5
    else:
        numbers = [(i % 2, size, o, True, True) for i, (size, o) in enumerate(zip(sizes, offsets, strict=True))]
        got = run(adam, [1, 0, 0.125, 0.9, 0.1, 5e-4, False, False, False, count, *sum(numbers, ())], arrays)
        expected = [_sgd(t, 0.125, 0.9, 0.1, 5e-4, False, n[0], False) for t, n in zip(tensors, numbers, strict=True)]
        places, width = (0, 2), 4
    for i, references in enumerate(expected):
        for place, reference in zip(places, references, strict=True):
            moved = got[width * i + place]
            assert (moved[: offsets[i]] == 1).all()
            _assert_close(moved[offsets[i] :], reference, np.float32)


@pytest.mark.parametrize("order", ORDERS[:3])
def test_schedule_on_the_device(adam, order):
    rng = np.random.default_rng(1)
    beta1, beta2, rate, decay = 0.9, 0.999, 1e-3, 0.01
    for step in (1, 2, 1000, 100000):
        (tensor,) = _tensors(rng, np.float32, [300], moments=2)
        scalars = [0, 0, beta1, beta2, 1e-8, 0.0, 7.0, False, True, decay, 1, 9.0, 9.0, 300, 0, True]
        arrays = [*tensor, np.array([step - 1], np.float32), np.array([rate], np.float32)]
        got = run(adam, scalars, arrays, order)
        assert got[5] == step
        shrink = 1 - np.float32(rate) * decay
        step_size, root_scale = np.float32(rate) / (1 - beta1**step), 1 / np.sqrt(1 - beta2**step)
        expected = _adam(tensor, (beta1, beta2, 1e-8, 0.0, shrink), step_size, root_scale, False, True)
        for place, reference in zip((0, 2, 3), expected, strict=True):
            _assert_close(got[place], reference, np.float32)


@pytest.mark.parametrize("order", ORDERS[:3])
def test_bfloat16_weights_are_rounded_to_nearest(adam, order):
    rng = np.random.default_rng(2)
    (tensor,) = _tensors(rng, np.float32, [5000], moments=2)
    bits = [(np.nan_to_num(a).view(np.uint32) >> 16).astype(np.uint16) for a in tensor[:2]]
    wide = [(b.astype(np.uint32) << 16).view(np.float32) for b in bits]
    rule = (0.9, 0.99, 1e-8, 0.0, 1.0)
    scalars = [0, 3, *rule, False, False, 0, 1, 0.1, 1.0, 5000, 0, True]
    got = run(adam, scalars, [*bits, *tensor[2:]], order)
    expected = _adam([*wide, *tensor[2:]], rule, 0.1, 1.0, False, True)
    moved = (got[0].astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(moved, expected[0], rtol=2.0**-8, atol=1e-6)
    _assert_close(got[2], expected[1], np.float32)


def _sgd(tensor, rate, momentum, dampening, l2, nesterov, first, frozen):
    w, g, b = (a.astype(np.float64) for a in tensor[:3])
    keep = tensor[3]
    g = g + l2 * w
    direction = g
    if momentum:
        b = g if first else momentum * b + (1 - dampening) * g
        direction = g + momentum * b if nesterov else b
    return np.where(keep, w - rate * direction, w if frozen else 0), np.where(keep, b, 0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"), [(0.0, 0.0, False), (0.9, 0.1, False), (0.9, 0.0, True)]
)
def test_sgd(adam, dtype, momentum, dampening, nesterov, order):
    rng = np.random.default_rng(3)
    for frozen, on_device, offset in ((False, False, 0), (True, True, 3)):
        tensors = _tensors(rng, dtype, SIZES, moments=1)
        scalars = [
            1,
            CODES[dtype],
            0.0 if on_device else 0.125,
            momentum,
            dampening,
            5e-4,
            nesterov,
            frozen,
            on_device,
            len(SIZES),
        ]
        for i, size in enumerate(SIZES):
            scalars += [i % 2, size, offset, True, momentum > 0]
        rate = [np.array([0.125], np.float32)] if on_device else []
        got = run(adam, scalars, _arrays(tensors, offset) + rate, order)
        for i, tensor in enumerate(tensors):
            weight, buffer = _sgd(tensor, 0.125, momentum, dampening, 5e-4, nesterov, i % 2, frozen)
            _assert_close(got[4 * i][offset:], weight, dtype)
            moved = got[4 * i + 2]
            if momentum:
                _assert_close(moved[offset:], buffer, moved.dtype.type)
            else:
                np.testing.assert_array_equal(moved[offset:], tensor[2])
