"""The operator of masked weights, the intrinsic dimension and batched linear algebra, against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fuzzing import SIZES, arrays, fuzz
from hypothesis import strategies as st

import prunecca as pc
from prunecca.linalg import batched

SPECIAL = (0.0, -0.0, 5e-324, -1e-45, 1e-40, 65504.0, 1e300, np.inf, -np.inf, np.nan)
LAYOUTS = ("plain", "transposed", "sliced", "expanded", "negative bit")
shapes = st.lists(st.sampled_from(SIZES), max_size=3).map(tuple)


@fuzz(weight=arrays(shapes, (1.0, 1e-30, 1e30), SPECIAL, layouts=LAYOUTS), seed=st.integers(0, 2**32 - 1))
def test_masked_weight(weight, seed):
    mask = np.random.default_rng(seed).random(weight.values.shape) < 0.5
    given = weight.array.clone().requires_grad_() if seed % 2 else weight.array
    out = pc.ops.masked_weight(given, torch.from_numpy(np.ascontiguousarray(mask)).reshape(mask.shape))
    got = out.detach().double().numpy()
    assert out.dtype == weight.array.dtype
    assert np.array_equal(got, np.where(mask, weight.values, 0.0), equal_nan=True)
    assert not np.signbit(got[~mask]).any()
    if given.requires_grad:
        out.sum().backward()
        assert np.array_equal(given.grad.double().numpy(), mask.astype(float))


def two_nearest(points: np.ndarray) -> np.ndarray:
    """Ratios of the distances to the second and the first neighbour, by all differences."""
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    np.fill_diagonal(distances, np.inf)
    first, second = np.sort(distances, 1)[:, :2].T
    return second / first


@fuzz(
    points=arrays(
        st.tuples(st.sampled_from((5, 6, 17, 40, 90)), st.sampled_from((1, 2, 5))),
        (1.0, 1e-2, 100.0),
        dtypes=(torch.float64, torch.float32),
    ),
    fraction=st.sampled_from((0.5, 0.9, 1.0)),
)
def test_intrinsic_dimension(points, fraction):
    found = pc.intrinsic_dimension(points.array, fraction=fraction, resamples=0)
    distinct = np.unique(points.values + 0.0, axis=0)
    assert found.count == len(distinct)
    assert found.duplicates == len(points.values) - len(distinct)
    if len(distinct) < 5:
        assert np.isnan(found.dimension)
        return
    ratios = np.sort(two_nearest(distinct))
    n = len(ratios)
    used = min(int(np.ceil(fraction * n)), n - 1)
    logs, heights = np.log(ratios[:used]), -np.log1p(-np.arange(1, used + 1) / n)
    if logs @ logs < 1e-6:  # all neighbours equally far: nothing but rounding is left
        return
    assert found.dimension == pytest.approx(float(logs @ heights / (logs @ logs)), rel=2e-3)


sides = st.sampled_from((1, 2, 3, 8, 17, 50))


@fuzz(
    matrices=arrays(
        st.tuples(st.sampled_from((0, 1, 3)), sides, sides),
        (1.0, 1e-100, 1e100),
        dtypes=(torch.float64,),
        layouts=("plain", "transposed", "sliced", "expanded"),
    )
)
def test_linear_algebra(matrices):
    given, values = matrices.array, matrices.values
    largest = np.abs(values).max(initial=0) * max(values.shape[1:])
    right = np.linalg.svd(values, compute_uv=False)
    assert np.allclose(batched.svdvals(given).numpy(), right, rtol=0, atol=1e-14 * largest)
    # A common scale first: products of the matrices with themselves would overflow.
    unit = values / (np.abs(values).max(initial=0) or 1.0)
    symmetric = unit @ unit.swapaxes(1, 2)
    found, vectors = (part.numpy() for part in batched.eigh(torch.from_numpy(symmetric)))
    right = np.linalg.eigvalsh(symmetric)
    error = 1e-13 * (np.abs(symmetric).max(initial=0) * symmetric.shape[1] + 1)
    assert np.allclose(found, right, rtol=0, atol=error)
    assert np.allclose(batched.eigvalsh(torch.from_numpy(symmetric)).numpy(), right, rtol=0, atol=error)
    assert np.allclose(vectors * found[:, None] @ vectors.swapaxes(1, 2), symmetric, rtol=0, atol=error * 10)
