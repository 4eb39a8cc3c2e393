"""The CUDA kernels of the threshold selection, emulated on the host in several thread orders, against a stable sort."""

import numpy as np
import pytest

from .build import ORDERS, build, run

DTYPES = {
    "float32": (0, np.float32),
    "float64": (1, np.float64),
    "float16": (2, np.float16),
    "bfloat16": (3, np.uint16),
}


@pytest.fixture(scope="module")
def threshold(cuda_host_folder):
    return build(cuda_host_folder, "threshold")


def _select(program, pools, wanted, *, dtype="float32", by_value=False, offset=0, in_place=False, order=0):
    """``pools``: per pool a list of (scores, alive or None). Masks per pool, and (survivors, first NaN) per pool."""
    code, numpy_dtype = DTYPES[dtype]
    tensors = [(p, scores, alive) for p, pool in enumerate(pools) for scores, alive in pool]
    scalars, arrays = [code, by_value, len(pools), len(tensors)], []
    for p, scores, alive in tensors:
        how = 0 if alive is None else 2 if in_place else 1
        scalars += [scores.size, p, offset, how]
        arrays.append(np.r_[np.zeros(offset, numpy_dtype), scores.astype(numpy_dtype)])
        padding = np.full(offset, 9, np.uint8)
        if how == 1:
            arrays.append(np.r_[padding, alive])
        arrays.append(np.r_[padding, alive] if how == 2 else np.r_[padding, np.full(scores.size, 7, np.uint8)])
    out = run(program, scalars, [*arrays, np.asarray(wanted, np.int64), np.zeros(2 * len(pools), np.int64)], order)
    masks, at = [], 0
    for _, _, alive in tensors:
        at += 1 + (alive is not None and not in_place)
        assert (out[at][:offset] == 9).all()
        masks.append(out[at][offset:])
        at += 1
    grouped, index = [], 0
    for pool in pools:
        grouped.append(masks[index : index + len(pool)])
        index += len(pool)
    return grouped, out[-1].reshape(-1, 2).tolist()


def _values(scores, dtype):
    return (scores.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else scores.astype(DTYPES[dtype][1])


def _expected(pool, wanted, dtype="float32", by_value=False):
    scores = np.concatenate([_values(scores, dtype) for scores, _ in pool]).astype(np.float64)
    alive = np.concatenate([np.ones(s.size, bool) if a is None else a for s, a in pool])
    candidates = np.flatnonzero(alive)
    keys = scores[candidates] if by_value else np.abs(scores[candidates])
    mask = alive.copy()
    mask[candidates[np.argsort(keys, kind="stable")[:wanted]]] = False
    return np.split(mask, np.cumsum([s.size for s, _ in pool])[:-1])


def _check(program, pools, wanted, **options):
    masks, survey = _select(program, pools, wanted, **options)
    reference = {key: options[key] for key in ("dtype", "by_value") if key in options}
    for pool, k, got, seen in zip(pools, wanted, masks, survey, strict=True):
        assert seen == [sum(s.size if a is None else int(a.sum()) for s, a in pool), -1]
        for mask, expected in zip(got, _expected(pool, k, **reference), strict=True):
            np.testing.assert_array_equal(mask, expected)


def _pool(rng, sizes, density=0.7, scores=None):
    make = scores or (lambda n: rng.standard_normal(n))
    return [(make(n), rng.random(n) < density if density else None) for n in sizes]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("by_value", "in_place", "offset"), [(False, False, 0), (True, True, 1)])
def test_two_pools_lose_exactly_their_own(threshold, order, by_value, in_place, offset):
    rng = np.random.default_rng(0)
    pools = [_pool(rng, [0, 5, 4097, 1]), _pool(rng, [9001, 0, 33], 0.4)]
    _check(threshold, pools, [812, 1500], by_value=by_value, in_place=in_place, offset=offset, order=order)


@pytest.mark.parametrize("order", ORDERS[:3])
@pytest.mark.parametrize("by_value", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(threshold, dtype, by_value, order):
    rng = np.random.default_rng(1)
    if dtype == "bfloat16":  # its bits, without infinities and NaNs
        pool = _pool(rng, [700, 5000], scores=lambda n: rng.integers(0, 0x7F80, n) | rng.integers(0, 2, n) << 15)
    else:
        pool = _pool(rng, [700, 5000])
    for wanted in (1, 2500):
        _check(threshold, [pool], [wanted], dtype=dtype, by_value=by_value, order=order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("wanted", [0, 1, 4095, 4096, 4097, 8200, 13099, 13100])
def test_all_equal_goes_by_position(threshold, order, wanted):
    pool = [(np.full(n, 0.5), None) for n in (4, 4096, 9000)]
    _check(threshold, [pool, [(np.zeros(300), None)]], [wanted, 17], order=order)


@pytest.mark.parametrize("order", ORDERS)
def test_few_different_values_tie_across_tensors_and_chunks(threshold, order):
    rng = np.random.default_rng(2)
    pool = _pool(rng, [3, 12345, 4096, 200], scores=lambda n: rng.choice([-0.25, 0.25, 0.5, -1.0, 0.0, -0.0], n))
    for wanted in (1, 3000, 3600, 7001):
        _check(threshold, [pool], [wanted], order=order)
        _check(threshold, [pool], [wanted], order=order, by_value=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("by_value", [False, True])
def test_denormals_signed_zeros_and_infinities_have_their_order(threshold, dtype, by_value):
    tiny = np.finfo(DTYPES[dtype][1]).smallest_subnormal
    edges = np.array([0.0, -0.0, tiny, -tiny, 2 * tiny, -3 * tiny, 1, -1, np.inf, -np.inf, -0.0, 0.0])
    for wanted in range(edges.size + 1):
        _check(threshold, [[(edges, None)]], [wanted], dtype=dtype, by_value=by_value)


def test_none_and_all_and_more_than_survive(threshold):
    pool = _pool(np.random.default_rng(3), [50, 5000])
    alive = sum(int(a.sum()) for _, a in pool)
    _check(threshold, [pool], [0])
    _check(threshold, [pool], [alive])
    masks, _ = _select(threshold, [pool], [alive + 5])
    assert not any(mask.any() for mask in masks[0])
    _check(threshold, [[(np.zeros(0), None)], pool], [0, 7])


@pytest.mark.parametrize("by_value", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("nan", [np.nan, -np.nan])
def test_nan_is_reported_and_its_pool_left_alone(threshold, dtype, by_value, nan):
    rng = np.random.default_rng(4)
    pools = [_pool(rng, [20, 5000, 30]), _pool(rng, [100])]
    pools[0][1][0][4500], pools[0][1][1][4500] = nan, True
    pools[0][2][0][3], pools[0][2][1][3] = nan, True
    pools[0][0][0][3], pools[0][0][1][3] = nan, False  # pruned already: of no concern
    masks, survey = _select(threshold, pools, [9, 9], dtype=dtype, by_value=by_value)
    assert [nan for _, nan in survey] == [1, -1]
    for mask, (_, alive) in zip(masks[0], pools[0], strict=True):
        np.testing.assert_array_equal(mask, alive)
    np.testing.assert_array_equal(masks[1][0], _expected(pools[1], 9, dtype, by_value)[0])


def test_more_tensors_than_one_launch_holds(threshold):
    rng = np.random.default_rng(5)
    pools = [_pool(rng, rng.integers(0, 60, 200)), _pool(rng, rng.integers(0, 60, 200), scores=lambda n: np.ones(n))]
    _check(threshold, pools, [1500, 1500])


@pytest.mark.parametrize("order", ORDERS[:3])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_list_that_overflows_and_one_that_does_not(threshold, order, in_place):
    # The first digit is an eighth of an octave: the first tensor leaves thousands of open entries to a chunk.
    rng = np.random.default_rng(6)
    near = rng.uniform(1.0, 1.1, 9000).astype(np.float32)
    near[rng.random(9000) < 0.5] = np.float32(1.05)
    wide = np.exp2(rng.uniform(-4, 4, 9000)).astype(np.float32)
    pool = [(near, rng.random(9000) < 0.8), (wide, rng.random(9000) < 0.8), (near[:5000], np.ones(5000, bool))]
    for wanted in (3700, 6000, 8000, 9999, 12000):
        _check(threshold, [pool, pool[1:2]], [wanted, 17], order=order, in_place=in_place)
