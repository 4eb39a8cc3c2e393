"""The threshold selection: exactly k, ties by position, at every SIMD level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunecca import _native
from prunecca._arrays import native

pytestmark = pytest.mark.usefixtures("level")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def select(
    scores: list[Tensor], alive: list[Tensor] | None, count: int, by_value: bool = False, threads: int = 2
) -> list[Tensor]:
    masks = [torch.full(s.shape, True) for s in scores]
    nan = _native.prune_lowest(
        [native(s) for s in scores],
        [native(a) for a in alive or []],
        [native(m) for m in masks],
        by_value=by_value,
        count=count,
        threads=threads,
        stream=0,
    )
    assert nan == -1
    return masks


def reference(
    scores: list[Tensor], alive: list[Tensor] | None, count: int, by_value: bool = False
) -> list[np.ndarray[Any, Any]]:
    """Stable sort of the survivors in float64: the definition."""
    flat = np.concatenate([s.double().numpy().ravel() for s in scores]) + 0.0
    live = np.concatenate([a.numpy().ravel() for a in alive]) if alive else np.ones(len(flat), bool)
    flat = flat if by_value else np.abs(flat)
    places = np.flatnonzero(live)
    gone = places[np.argsort(flat[places], kind="stable")[:count]]
    live = live.copy()
    live[gone] = False
    ends = np.cumsum([s.numel() for s in scores])[:-1]
    return [part.reshape(s.shape) for part, s in zip(np.split(live, ends), scores, strict=True)]


def check(scores: list[Tensor], alive: list[Tensor] | None, count: int, by_value: bool = False) -> None:
    for threads in (1, 3):
        masks = select(scores, alive, count, by_value, threads)
        for mask, expected in zip(masks, reference(scores, alive, count, by_value), strict=True):
            np.testing.assert_array_equal(mask.numpy(), expected)


def pool(dtype: torch.dtype, sizes: list[int], seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    g = torch.Generator().manual_seed(seed)
    scores = [(torch.randn(n, generator=g) * 0.02).to(dtype) for n in sizes]
    return scores, [torch.rand(n, generator=g) > 0.3 for n in sizes]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_value", [False, True])
def test_pool_of_odd_sizes(dtype: torch.dtype, by_value: bool) -> None:
    scores, alive = pool(dtype, [1, 0, 63, 64, 65, 255, 256, 257, 40001])
    survivors = sum(int(a.sum()) for a in alive)
    for count in (0, 1, survivors // 5, survivors - 1, survivors):
        check(scores, alive, count, by_value)
    check(scores, None, sum(s.numel() for s in scores) // 3, by_value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_equal_prunes_the_first(dtype: torch.dtype) -> None:
    scores = [torch.full((n,), -0.25, dtype=dtype) for n in (50000, 3, 50000)]
    for count in (0, 1, 49999, 50002, 70000, 100003):
        check(scores, None, count)


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_distinct_values_narrow_to_the_last_digit(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(1)
    steps = torch.finfo(dtype).eps  # neighbours in the last bit: all within the first digit's bin
    scores = [(1 + torch.randint(0, 5, (60000,), generator=g).double() * steps).to(dtype)]
    alive = [torch.rand(60000, generator=g) > 0.5]
    for count in (1, 7777, 20000):
        check(scores, alive, count)
        check(scores, alive, count, by_value=True)


MANY = 1 << 22  # scores from which a sample is drawn


def large(kind: str) -> Tensor:
    g = torch.Generator().manual_seed(3)
    if kind == "few values":
        return torch.randint(0, 50, (MANY + 77,), generator=g).float()
    if kind == "equal":
        return torch.full((MANY + 77,), -0.25)
    scores = torch.randn(MANY + 77, generator=g)
    if kind == "sorted":
        return scores.sort().values
    if kind == "lowest where no sample is drawn":  # about every 134th score is drawn
        scores[1::2] *= 1e-3
    return scores


def check_many(scores: list[Tensor], alive: list[Tensor] | None, count: int, by_value: bool = False) -> None:
    """As ``check``, by a partition instead of a sort: below the threshold all go, at it the first ones."""
    flat = torch.cat(scores).double().numpy()
    flat = flat if by_value else np.abs(flat)
    want = torch.cat(alive).numpy() if alive else np.ones(len(flat), bool)
    threshold = np.partition(flat[want], count - 1)[count - 1]
    ties = np.flatnonzero(want & (flat == threshold))
    want &= flat >= threshold
    cleared = (int(sum(a.sum() for a in alive)) if alive else len(flat)) - want.sum()
    want[ties[: count - cleared]] = False
    np.testing.assert_array_equal(torch.cat(select(scores, alive, count, by_value)).numpy(), want)


@pytest.mark.parametrize("kind", ["normal", "few values", "equal", "sorted", "lowest where no sample is drawn"])
@pytest.mark.parametrize("masked", [True, False])
def test_many_scores_are_sampled_first(kind: str, masked: bool) -> None:
    whole = large(kind)
    scores = [whole[:1000], whole[1000:-5], whole[-5:]]
    alive = (
        [torch.rand(s.numel(), generator=torch.Generator().manual_seed(4)) > 0.3 for s in scores] if masked else None
    )
    survivors = sum(int(a.sum()) for a in alive) if alive else len(whole)
    for count in (1, survivors // 5, survivors):
        check_many(scores, alive, count)
    with pytest.raises(ValueError, match=f"asked to prune {survivors + 1} of {survivors} survivors"):
        select(scores, alive, survivors + 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_value", [False, True])
def test_many_scores_of_every_dtype(level: str, dtype: torch.dtype, by_value: bool) -> None:
    check_many([large("normal").to(dtype)], None, MANY // 3, by_value)


@pytest.mark.parametrize("place", [0, 17, MANY])
def test_a_nan_among_many_scores_names_its_tensor(place: int) -> None:
    scores = [torch.ones(9), large("normal")]
    scores[1][place] = torch.nan
    alive = [torch.ones_like(s, dtype=torch.bool) for s in scores]
    masks = [torch.ones_like(a) for a in alive]
    args = ([native(s) for s in scores], [native(a) for a in alive], [native(m) for m in masks])
    assert _native.prune_lowest(*args, by_value=False, count=MANY // 5, threads=2, stream=0) == 1
    alive[1][place] = False
    assert _native.prune_lowest(*args, by_value=False, count=MANY // 5, threads=2, stream=0) == -1


def test_zeros_negative_zeros_and_denormals_keep_their_order() -> None:
    tiny = torch.finfo(torch.float32).smallest_normal
    values = torch.tensor([0.0, -0.0, tiny / 2, -tiny / 4, tiny, -tiny, float("inf"), -float("inf"), 1e-45, -0.0])
    for count in range(len(values) + 1):
        check([values], None, count)
        check([values], None, count, by_value=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_value(dtype: torch.dtype) -> None:
    values = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    values = values[~values.isnan()]
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]
    for count in (5, 1000, 20000, 40000, len(values) - 3):
        check([values], None, count)
        check([values], None, count, by_value=True)


def test_flushed_denormals_are_not_ties() -> None:
    # torch.set_flush_denormal makes arithmetic see zeros here; the selection reads bits.
    values = torch.tensor([3e-42, 1e-42, 2e-42, 0.0])
    assert torch.set_flush_denormal(True)
    try:
        (mask,) = select([values], None, 2)
        (half,) = select([torch.tensor([3, 1, 2, 0], dtype=torch.int16).view(torch.float16)], None, 2)
    finally:
        torch.set_flush_denormal(False)
    assert mask.tolist() == half.tolist() == [True, False, True, False]


def test_unaligned_views() -> None:
    base, live = pool(torch.float32, [5003])
    for start in range(1, 9):
        scores, alive = [base[0][start : start + 4000]], [live[0][start * 2 + 1 : start * 2 + 4001]]
        check(scores, alive, 1000)


def test_previous_mask_may_be_the_output() -> None:
    scores, alive = pool(torch.float32, [3001, 20000])
    expected = reference(scores, alive, 900)
    arrays = [native(a) for a in alive]
    _native.prune_lowest([native(s) for s in scores], arrays, arrays, by_value=False, count=900, threads=2, stream=0)
    for mask, want in zip(alive, expected, strict=True):
        np.testing.assert_array_equal(mask.numpy(), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_value", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_at_a_survivor_names_its_tensor_and_writes_nothing(dtype: torch.dtype, by_value: bool, sign: int) -> None:
    scores = [torch.ones(300, dtype=dtype), torch.ones(300, dtype=dtype)]
    bad = torch.copysign(torch.tensor(float("nan")), torch.tensor(float(sign))).to(dtype)
    scores[1][17], scores[1][18] = bad, float("inf")
    alive = [torch.ones(300, dtype=torch.bool) for _ in range(2)]
    masks = [torch.ones(300, dtype=torch.bool) for _ in range(2)]
    args = ([native(s) for s in scores], [native(a) for a in alive], [native(m) for m in masks])
    assert _native.prune_lowest(*args, by_value=by_value, count=100, threads=2, stream=0) == 1
    assert all(m.all() for m in masks)
    alive[1][17] = False  # a NaN where the mask is already down is nobody's business
    assert _native.prune_lowest(*args, by_value=by_value, count=100, threads=2, stream=0) == -1


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.booleans()), max_size=40), min_size=1, max_size=4
    ),
    st.floats(0, 1),
    st.booleans(),
)
def test_exact_on_any_floats(data: list[list[tuple[float, bool]]], share: float, by_value: bool) -> None:
    scores = [torch.tensor([v for v, _ in row], dtype=torch.float32) for row in data]
    alive = [torch.tensor([a for _, a in row], dtype=torch.bool) for row in data]
    check(scores, alive, int(share * sum(int(a.sum()) for a in alive)), by_value)


def test_native_refusals() -> None:
    scores, _ = pool(torch.float32, [10])
    mask = torch.ones(10, dtype=torch.bool)
    call = {"by_value": False, "threads": 1, "stream": 0}
    with pytest.raises(ValueError, match="asked to prune 11 of 10 survivors"):
        _native.prune_lowest([native(scores[0])], [], [native(mask)], count=11, **call)
    with pytest.raises(ValueError, match="different dtypes"):
        _native.prune_lowest(
            [native(scores[0]), native(scores[0].double())], [], [native(mask), native(mask)], count=1, **call
        )
    with pytest.raises(ValueError, match="not boolean"):
        _native.prune_lowest([native(scores[0])], [], [native(mask.to(torch.int64))], count=1, **call)
    with pytest.raises(ValueError, match="shape or memory order"):
        _native.prune_lowest([native(scores[0])], [], [native(mask[:5])], count=1, **call)
    with pytest.raises(ValueError, match="not contiguous"):
        _native.prune_lowest([native(torch.ones(4, 4).T)], [], [native(torch.ones(4, 4).bool().T)], count=1, **call)
