"""Masks, their bits and the selection of what to prune, against plain NumPy: the same entries, exactly."""

from __future__ import annotations

import math
import warnings
from decimal import Decimal

import numpy as np
import pytest
import torch
from fuzzing import DTYPES, SIZES, arrays, as_given, backwards, fuzz, is_a_sentence
from hypothesis import strategies as st

import prunecca.pruning as P

SPECIAL = (0.0, -0.0, 5e-324, -1e-45, 1e-40, 6e-8, 1e-300, 65504.0, -1e38, 1e300, np.inf, -np.inf)
LAYOUTS = ("plain", "transposed", "sliced", "expanded", "negative bit")  # what a torch tensor can be
shapes = st.lists(st.sampled_from(SIZES), max_size=3).map(tuple)
scales = (1.0, 1e-30, 1e-42, 1e30)
SCORES = {
    "large_final": lambda f, i: np.abs(f),
    "small_final": lambda f, i: -np.abs(f),
    "large_init": lambda f, i: np.abs(i),
    "small_init": lambda f, i: -np.abs(i),
}


def weights(special=SPECIAL, layouts=LAYOUTS):
    return arrays(shapes, scales, special, layouts=layouts)


@st.composite
def pools(draw, special=SPECIAL):
    """Weights, initial weights and masks so far of a pool, the masks as NumPy arrays too."""
    made = [draw(weights(special)) for _ in range(draw(st.integers(1, 3)))]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    start, before = [], []
    for one in made:
        start.append(as_given(random.integers(-2, 3, one.values.shape).astype(float), torch.float32, "plain"))
        before.append(random.random(one.values.shape) < draw(st.sampled_from((0.0, 0.5, 1.0))))
    return made, start, before


def torch_mask(mask: np.ndarray | np.bool_, transposed: bool) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(mask)).reshape(mask.shape)
    return backwards(tensor) if transposed else tensor


rates = st.sampled_from((0.0, 0.1, 0.29, 0.5, 0.58, 0.999, 1.0)) | st.floats(0, 1)


@fuzz(pool=pools(), rate=rates, criterion=st.sampled_from(sorted(SCORES)), transposed=st.booleans())
def test_prune(pool, rate, criterion, transposed):
    made, start, before = pool
    names = [f"w{k}" for k in range(len(made))]
    previous = {name: torch_mask(mask, transposed) for name, mask in zip(names, before, strict=True)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", P.LayerCollapseWarning)
        masks = P.prune(
            {name: one.array for name, one in zip(names, made, strict=True)},
            {"all": names},
            rate,
            previous,
            criterion=criterion,
            initial={name: one.array for name, one in zip(names, start, strict=True)},
        )
    scores = [SCORES[criterion](f.values, i.values).reshape(-1) for f, i in zip(made, start, strict=True)]
    flat, alive = np.concatenate(scores), np.concatenate([mask.reshape(-1) for mask in before])
    survivors = np.flatnonzero(alive)
    lowest = survivors[np.argsort(flat[survivors], kind="stable")]
    right = alive.copy()
    right[lowest[: math.floor(Decimal(repr(rate)) * len(survivors))]] = False
    got = np.concatenate([masks[name].numpy().reshape(-1) for name in names])
    assert np.array_equal(got, right)
    assert [masks[name].shape for name in names] == [one.array.shape for one in made]


@fuzz(pool=pools((np.nan,)), criterion=st.sampled_from(("large_final", "small_final")))
def test_prune_refuses_nan_at_survivors(pool, criterion):
    made, _, before = pool
    names = [f"w{k}" for k in range(len(made))]
    found = [bool((np.isnan(one.values) & mask).any()) for one, mask in zip(made, before, strict=True)]
    given = {name: one.array for name, one in zip(names, made, strict=True)}
    previous = {name: torch_mask(mask, False) for name, mask in zip(names, before, strict=True)}
    if not any(found):
        P.prune(given, {"all": names}, 0.0, previous, criterion=criterion)
        return
    with pytest.raises(ValueError, match=f"^parameter 'w{found.index(True)}' has a NaN score") as refused:
        P.prune(given, {"all": names}, 0.0, previous, criterion=criterion)
    assert is_a_sentence(refused.value)


@fuzz(
    one=weights((*SPECIAL, np.nan), tuple(name for name in LAYOUTS if name != "expanded")),
    seed=st.integers(0, 2**32 - 1),
    transposed=st.booleans(),
)
def test_apply_masks(one, seed, transposed):
    mask = np.random.default_rng(seed).random(one.values.shape) < 0.6
    P.apply_masks({"w": one.array}, {"w": torch_mask(mask, transposed)})
    right = np.where(mask, one.values, 0.0)
    got = one.array.double().resolve_neg().numpy()
    assert np.array_equal(got, right, equal_nan=True)
    assert not np.signbit(got[~mask]).any()


@fuzz(shape=shapes, seed=st.integers(0, 2**32 - 1), share=st.sampled_from((0.0, 0.3, 1.0)), transposed=st.booleans())
def test_bits_and_densities(shape, seed, share, transposed):
    mask = np.random.default_rng(seed).random(shape) < share
    given = {"w": torch_mask(mask, transposed)}
    packed = P.pack(given)
    assert np.array_equal(packed["w"].numpy(), np.packbits(mask.reshape(-1), bitorder="little"))
    assert np.array_equal(P.unpack(packed, {"w": shape})["w"].numpy(), mask)
    right = mask.mean() if mask.size else 1.0
    assert P.density(given) == pytest.approx(right, abs=1e-15)
    assert P.density_per_layer(given) == {"w": pytest.approx(right, abs=1e-15)}


@fuzz(
    rate=st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from((-0.0, 1.0000001)),
    dtype=st.sampled_from(DTYPES),
)
def test_rates(rate, dtype):
    weight = {"w": torch.arange(1, 11).to(dtype)}
    if 0 <= rate <= 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", P.LayerCollapseWarning)
            kept = P.prune(weight, {"all": ["w"]}, rate)["w"]
        assert int(kept.sum()) == 10 - math.floor(Decimal(repr(rate)) * 10)
        return
    with pytest.raises(ValueError, match=r"^pruning rate of pool 'all' is .*expected a fraction") as refused:
        P.prune(weight, {"all": ["w"]}, rate)
    assert is_a_sentence(refused.value)
