"""The CUDA kernels of masks, emulated on the host in several thread orders, against NumPy."""

import numpy as np
import pytest

from .build import ORDERS, build, run

SIZES = [0, 1, 7, 4095, 4096, 4097, 0, 9001]  # a chunk holds 4096
WORDS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


@pytest.fixture(scope="module")
def masks(cuda_host_folder):
    return build(cuda_host_folder, "masks")


def _mask(rng, size, density):
    # Runs of equal entries too: fours that are all kept or all pruned take other paths.
    mask = rng.random(size) < density
    mask[: size // 4] = False
    mask[size // 4 : size // 2] = True
    return mask


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("in_place", "offset"), [(False, 0), (False, 1), (True, 0), (True, 3)])
def test_masked_copy(masks, order, in_place, offset):
    rng = np.random.default_rng(1)
    for itemsize, word in WORDS.items():
        sources = [rng.integers(1, np.iinfo(word).max, size, dtype=word) for size in SIZES]
        kept = [_mask(rng, size, 0.5) for size in SIZES]
        scalars, arrays = [0, itemsize, len(SIZES)], []
        for source, mask in zip(sources, kept, strict=True):
            scalars += [source.size, offset, in_place]
            padded = np.r_[np.zeros(offset, word), source]
            arrays += [padded] if in_place else [np.full_like(padded, 7), padded]
            arrays.append(np.r_[np.zeros(offset, bool), mask])
        got = run(masks, scalars, arrays, order)
        outputs = got[:: 2 if in_place else 3]
        for output, source, mask in zip(outputs, sources, kept, strict=True):
            np.testing.assert_array_equal(output[offset:], np.where(mask, source, 0))
            assert (output[:offset] == (0 if in_place else 7)).all()


def test_more_tensors_than_one_launch_holds(masks):
    rng = np.random.default_rng(2)
    sizes = rng.integers(0, 40, 500)
    sources = [rng.integers(1, 99, size, dtype=np.uint32) for size in sizes]
    kept = [rng.random(size) < 0.5 for size in sizes]
    scalars, arrays = [0, 4, len(sizes)], []
    for source, mask in zip(sources, kept, strict=True):
        scalars += [source.size, 0, True]
        arrays += [source, mask]
    for output, source, mask in zip(run(masks, scalars, arrays)[::2], sources, kept, strict=True):
        np.testing.assert_array_equal(output, source * mask)


@pytest.mark.parametrize("order", ORDERS)
def test_count_kept(masks, order):
    rng = np.random.default_rng(3)
    kept = [_mask(rng, size, 0.3) for size in SIZES]
    for offset in (0, 5):
        scalars = [1, 1, len(SIZES), *(n for mask in kept for n in (mask.size, offset, False))]
        arrays = [np.r_[np.ones(offset, bool), mask] for mask in kept]
        counts = run(masks, scalars, [*arrays, np.full(len(SIZES), -1, np.int64)], order)[-1]
        np.testing.assert_array_equal(counts, [mask.sum() for mask in kept])


@pytest.mark.parametrize("count", [49, 421])
def test_more_masks_are_counted_than_one_launch_holds(masks, count):
    rng = np.random.default_rng(4)
    kept = [_mask(rng, size, 0.3) for size in rng.integers(0, 40, count)]
    offsets = rng.integers(0, 4, count)
    scalars = [1, 1, count, *(n for mask, o in zip(kept, offsets, strict=True) for n in (mask.size, o, False))]
    arrays = [np.r_[np.ones(o, bool), mask] for mask, o in zip(kept, offsets, strict=True)]
    counts = run(masks, scalars, [*arrays, np.full(count, -1, np.int64)])[-1]
    np.testing.assert_array_equal(counts, [mask.sum() for mask in kept])
