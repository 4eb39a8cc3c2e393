"""The emulation itself: it runs a correct kernel correctly in every thread order, and catches planted mistakes."""

import numpy as np
import pytest
from emulated.build import ORDERS, EmulationError, build, close_all, run

BUGS = {
    "MISSING_BARRIER": None,  # no crash, but a result that depends on the order
    "MISSING_WAIT": None,
    "DIVERGENT_BARRIER": "deadlock",
    "WRONG_MASK": "whose mask does not name it",
    "READ_PAST_THE_END": "AddressSanitizer",
    "WRITE_PAST_SHARED": "AddressSanitizer|index 8 out of bounds",
    "UNINITIALISED_SHARED": None,
}


@pytest.fixture(scope="module")
def planted(cuda_host_folder):
    return build(cuda_host_folder, "planted")


def _column_sums(program, bug, order):
    x = np.arange(1, 301, dtype=np.float32)
    names = ["NONE", *BUGS]
    _, sums = run(program, [names.index(bug), x.size], [x, np.zeros(2, np.float32)], order)
    return sums, np.array([x.sum(), x.sum()], np.float32)


@pytest.mark.parametrize("order", ORDERS)
def test_a_correct_kernel_is_correct_in_every_order(planted, order):
    got, expected = _column_sums(planted, "NONE", order)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_mistake_is_caught(planted, bug):
    if BUGS[bug]:
        with pytest.raises(EmulationError, match=BUGS[bug]):
            _column_sums(planted, bug, 0)
        return
    wrong = []
    for order in ORDERS:
        got, expected = _column_sums(planted, bug, order)
        wrong.append(not np.array_equal(got, expected))
    assert any(wrong)


def test_sixteen_bit_floats_convert_as_numpy_does(planted):
    edges = [
        0,
        -0.0,
        1,
        65504,
        65519.99,
        65520,
        6e-8,
        2.9e-8,
        3.1e-8,
        6.1e-5,
        6.0e-5,
        np.inf,
        -np.inf,
        1 / 3,
        -2049,
        2051,
    ]
    x = np.concatenate([edges, np.random.default_rng(0).standard_normal(500)]).astype(np.float32)
    _, half, back = run(planted, [-1, x.size], [x, np.zeros(x.size, np.uint16), np.zeros(x.size, np.float32)])
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    np.testing.assert_array_equal(half, expected.view(np.uint16))
    np.testing.assert_array_equal(back, expected.astype(np.float32))


def test_static_shared_memory_counts_beside_dynamic(planted):
    # 8 KiB of it. launch() asks in time; a kernel that was not asked for has 48 KiB in all.
    for kib in (1, 36, 44, 48, 100):
        run(planted, [-2, kib << 10], [np.zeros(1, np.float32)] * 2)
    for kib, words in ((44, "more than was asked for"), (49, "cuda error 1")):
        close_all()  # what was granted is remembered as long as the program runs
        with pytest.raises(EmulationError, match=words):
            run(planted, [-2, -(kib << 10)], [np.zeros(1, np.float32)] * 2)
