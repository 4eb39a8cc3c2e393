"""Scopes of rows and of N:M, against plain Python with exact fractions: ties, zeros of both signs, denormals, dead entries."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import prunecca as pc
from prunecca.pruning.criteria import CRITERIA

P = pc.pruning
TINY = 2.0**-149  # the smallest float32 above 0
VALUES = [0.0, -0.0, TINY, -TINY, 3 * TINY, 2.0**-127, 0.5, -0.5, 1.0, -1.0, 2.0, float("inf")]


def keep_highest(indices: list[tuple[int, ...]], score: Tensor, alive: Tensor, gone: int, kept: Tensor) -> None:
    living = [i for i in indices if alive[i]]
    ranked = sorted(range(len(living)), key=lambda k: (score[living[k]].item(), k))
    for k in ranked[gone:]:
        kept[living[k]] = True


def rows_by_hand(score: Tensor, alive: Tensor, rate: str) -> Tensor:
    kept = torch.zeros_like(alive)
    lines = range(score.shape[0]) if score.dim() > 1 else [None]
    for line in lines:
        indices = [i for i in product(*map(range, score.shape)) if line is None or i[0] == line]
        survivors = sum(bool(alive[i]) for i in indices)
        keep_highest(indices, score, alive, math.floor(Fraction(rate) * survivors), kept)
    return kept


def groups_by_hand(score: Tensor, alive: Tensor, n: int, m: int) -> Tensor:
    if score.dim() < 2:
        return alive.clone()
    kept = torch.zeros_like(alive)
    others = [range(size) for axis, size in enumerate(score.shape) if axis != 1]
    for place in product(*others):
        for first in range(0, score.shape[1], m):
            indices = [(place[0], c, *place[1:]) for c in range(first, min(first + m, score.shape[1]))]
            survivors = sum(bool(alive[i]) for i in indices)
            keep_highest(indices, score, alive, max(0, survivors - n), kept)
    return kept


def drawn(shape: list[int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    final, initial = (torch.tensor(VALUES)[torch.randint(len(VALUES), tuple(shape), generator=g)] for _ in range(2))
    return final, initial.clamp(-2, 2), torch.rand(tuple(shape), generator=g) < 0.8


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    rate=st.sampled_from(["0", "0.2", "0.29", "0.5", "1/3", "1"]),
    pattern=st.sampled_from([None, (1, 2), (2, 4), (1, 4), (3, 7)]),
    criterion=st.sampled_from([name for name in CRITERIA if name != "random"]),
)
def test_exact_counts_and_order(
    shape: list[int], seed: int, rate: str, pattern: tuple[int, int] | None, criterion: str
) -> None:
    final, initial, alive = drawn(shape, seed)
    final = final.clamp(-2, 2)  # magnitude increases of infinite weights are no numbers
    chosen = CRITERIA[criterion]
    score = chosen.score(final, initial, 1.0)
    score = score if chosen.signed else score.abs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", P.LayerCollapseWarning)
        got = P.prune(
            {"w": final},
            {"all": ["w"]},
            rate,
            {"w": alive},
            criterion=criterion,
            initial={"w": initial},
            scope="row" if pattern is None else "{}:{}".format(*pattern),
        )["w"]
    if pattern is None:
        assert torch.equal(got, rows_by_hand(score, alive, rate))
    else:
        assert torch.equal(got, groups_by_hand(score, alive, *pattern) if rate != "0" else alive)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_criterion_and_dtype_leaves_the_same_counts(criterion: str, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(1)
    weights = {"w": torch.randn(6, 8, 3, 3, generator=g).to(dtype), "b": torch.randn(6, generator=g).to(dtype)}
    initial = {name: tensor.flip(0) for name, tensor in weights.items()}
    made = {
        scope: P.prune(weights, {"all": ["w", "b"]}, 0.3, criterion=criterion, initial=initial, scope=scope)
        for scope in ("row", "2:4")
    }
    assert (made["row"]["w"].flatten(1).sum(1) == 72 - 21).all()
    assert int(made["row"]["b"].sum()) == 6 - 1
    assert (made["2:4"]["w"].unflatten(1, (2, 4)).sum(2) == 2).all()
    assert made["2:4"]["b"].all()


def test_memory_order_and_gaps_do_not_change_the_mask() -> None:
    weight = torch.randint(-3, 3, (4, 8, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    gaps = torch.zeros(4, 16, 3, 3)[:, ::2].copy_(weight)
    for scope in ("row", "2:4"):
        plain, *others = (
            P.prune({"w": w}, {"all": ["w"]}, 0.5, scope=scope)["w"]
            for w in (weight, weight.to(memory_format=torch.channels_last), gaps)
        )
        assert all(torch.equal(plain, other) for other in others)


def test_pieces_of_a_large_tensor_are_cut_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randint(-9, 9, (50, 20), generator=torch.Generator().manual_seed(0)).float()
    whole = [P.prune({"w": weight}, {"all": ["w"]}, 0.4, scope=scope)["w"] for scope in ("row", "2:4")]
    monkeypatch.setattr("prunecca.methods.scopes._PIECE", 60)
    pieces = [P.prune({"w": weight}, {"all": ["w"]}, 0.4, scope=scope)["w"] for scope in ("row", "2:4")]
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_a_nan_is_an_error_only_where_it_is_alive() -> None:
    weight, alive = torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool)
    weight[1, 2], alive[1, 2] = float("nan"), False
    for scope in ("row", "2:4"):
        assert int(P.prune({"w": weight}, {"all": ["w"]}, 0.5, {"w": alive}, scope=scope)["w"].sum()) < 8
        with pytest.raises(ValueError, match="parameter 'w' has a NaN score"):
            P.prune({"w": weight}, {"all": ["w"]}, 0.5, scope=scope)


@pytest.mark.parametrize("scope", ["4:2", "2:2", "0:4", "2:9999"])
def test_patterns_that_cannot_be(scope: str) -> None:
    with pytest.raises(ValueError, match=rf"scope '{scope}' keeps .* expected N:M with N from 1 to M - 1"):
        P.Recipe(scope=scope)


@pytest.mark.parametrize("scope", ["2:", ":4", "2:4:8", "-1:4", "rows", "", "2 : 4"])
def test_what_is_no_scope(scope: str) -> None:
    with pytest.raises(ValueError, match=r"expected one of pool, layer, global, row, channel, or N:M such as 2:4"):
        P.prune({"w": torch.ones(3)}, {"all": ["w"]}, 0.1, scope=scope)


def test_denormals_count_as_what_they_are_even_where_the_processor_flushes_them() -> None:
    weight = torch.tensor([[2 * TINY, -0.0, TINY, 3 * TINY, 0.0, -4 * TINY, 0.0, 1.0]])
    assert torch.set_flush_denormal(True)
    try:
        for criterion, kept in (("large_final", [3, 5, 7]), ("small_final", [1, 4, 6])):
            mask = P.prune({"w": weight}, {"all": ["w"]}, 0.7, criterion=criterion, scope="row")["w"]
            assert mask[0].nonzero().flatten().tolist() == kept
        assert P.prune({"w": weight}, {"all": ["w"]}, 1, scope="2:4")["w"].tolist() == [[1, 0, 0, 1, 0, 1, 0, 1]]
    finally:
        torch.set_flush_denormal(False)
