"""A refused batch leaves the state as it was, and threads may share an accumulator."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from streams import correlated

import prunecca as pc
from prunecca.covariance import accumulate
from prunecca.covariance.accumulator import CovarianceAccumulator
from prunecca.covariance.view import View


def state_of(acc: CovarianceAccumulator) -> list[Any]:
    """Everything that later batches and results depend on."""
    facts = [[m.count, m.exact, m.exponent, m.wide, m.far] for m in acc.members]
    tensors = [t.clone() for part in (*acc.members, *acc.cross.values()) for t in part.tensors().values()]
    return [facts, *tensors]


def same(a: list[Any], b: list[Any]) -> bool:
    return a[0] == b[0] and len(a) == len(b) and all(map(torch.equal, a[1:], b[1:]))


def begun(rows: int, dtype: torch.dtype = torch.float32) -> CovarianceAccumulator:
    x, y = correlated(rows, 5, 4, dtype)
    acc = CovarianceAccumulator(norms=True)
    acc.add(View.of(x, "x"), [View.of(y, "y")])
    return acc


def poisoned(x: torch.Tensor, value: float) -> torch.Tensor:
    x = x.clone()
    x[-1, -1] = value
    return x


BAD: dict[str, Callable[[torch.Tensor, torch.Tensor], tuple[Any, Any]]] = {
    "a NaN in x": lambda x, y: (poisoned(x, torch.nan), y),
    "an infinity in y": lambda x, y: (x, poisoned(y, torch.inf)),
    "a NaN far away": lambda x, y: (poisoned(x + 1e8, torch.nan), y),
    "a NaN beside huge values": lambda x, y: (poisoned(x * 1e30, torch.nan), y),
    "a NaN beside tiny values": lambda x, y: (poisoned(x * 1e-30, torch.nan), y),
    "huge values beside a NaN": lambda x, y: (x * 1e30, poisoned(y, torch.nan)),
    "other channels": lambda x, y: (x, y[:, :-1]),
    "other rows": lambda x, y: (x, y[:-1]),
    "far away with other rows": lambda x, y: (x + 1e8, y[:-1]),
    "one candidate too many": lambda x, y: (x, [y, y]),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("rows", [100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parts", [False, True])
def test_a_refused_batch_leaves_the_state(
    name: str, rows: int, dtype: torch.dtype, parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parts:
        monkeypatch.setattr(accumulate, "_CALL_BYTES", 4096)  # so that a batch takes many native calls
    acc = begun(rows, dtype)
    before = state_of(acc)
    x, y = BAD[name](*correlated(3000, 5, 4, dtype))
    with pytest.raises(ValueError):
        acc.add(View.of(x, "x"), [View.of(t, "y") for t in (y if isinstance(y, list) else [y])])
    assert same(state_of(acc), before)


@pytest.mark.parametrize("rows", [100, 1000])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_a_refused_reference_leaves_the_state(rows: int, offset: float) -> None:
    acc = begun(rows)
    before = state_of(acc)
    x, _ = correlated(3000, 5, 4)
    with pytest.raises(ValueError, match="NaN"):
        acc.add_reference(View.of(poisoned(x + offset, torch.nan), "x"))
    assert same(state_of(acc), before)


@pytest.mark.parametrize("rows", [100, 1000])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_a_refused_candidate_leaves_the_state(rows: int, offset: float) -> None:
    acc = begun(rows)
    x, y = correlated(3000, 5, 4)
    acc.add_reference(View.of(x, "x"))
    before = state_of(acc)
    with pytest.raises(ValueError, match="NaN"):
        acc.add_candidate(0, View.of(x, "x"), View.of(poisoned(y + offset, torch.nan), "y"))
    assert same(state_of(acc), before)
    acc.add_candidate(0, View.of(x, "x"), View.of(y, "y"))
    assert acc.finalize()[0].count == rows + 3000


def test_a_refused_batch_costs_nothing_later() -> None:
    """100 rows, then a refused batch of mean 1e8: the shift must stay where it was."""
    x, y = correlated(1100, 5, 4)
    acc, clean = pc.StreamingCovariance(), pc.StreamingCovariance()
    for target in (acc, clean):
        target.update(x[:100], y[:100])
    with pytest.raises(ValueError, match="NaN"):
        acc.update(poisoned(x[100:] + 1e8, torch.nan), y[100:])
    for target in (acc, clean):
        target.update(x[100:], y[100:])
    assert torch.equal(acc.finalize().xx, clean.finalize().xx)  # type: ignore[union-attr]


def test_a_batch_in_parts_equals_one_in_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = correlated(3000, 5, 4, torch.float64)
    whole = pc.cca(x, y)
    monkeypatch.setattr(accumulate, "_CALL_BYTES", 4096)
    assert pc.cca(x, y).mean == pytest.approx(whole.mean, abs=1e-14)


def test_threads_may_share_an_accumulator() -> None:
    x, y = correlated(20_000, 5, 4, torch.float64)
    acc, whole = pc.StreamingCovariance(norms=True), pc.StreamingCovariance(norms=True)
    whole.update(x, y)
    pairs = list(zip(x.split(50), y.split(50), strict=True))

    def work(share: int) -> None:
        for a, b in pairs[share::4]:
            acc.update(a, b)
            acc.finalize() if acc.count > 1 else None

    threads = [threading.Thread(target=work, args=(share,)) for share in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got, want = acc.finalize(), whole.finalize()
    assert got.count == 20_000  # type: ignore[union-attr]
    torch.testing.assert_close(got.xy, want.xy, rtol=1e-10, atol=1e-12)  # type: ignore[union-attr]


def test_merging_both_ways_at_once_ends() -> None:
    a, b = begun(500, torch.float64), begun(500, torch.float64)
    threads = [threading.Thread(target=p.merge, args=(q,)) for p, q in [(a, b), (b, a)] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    a.merge(a)
    assert a.count % 1000 == 0


@pytest.mark.parametrize("again", [copy.deepcopy, lambda acc: pickle.loads(pickle.dumps(acc))])
def test_a_copy_goes_on_by_itself(again: Callable[[Any], Any]) -> None:
    x, y = correlated(600, 5, 4)
    acc = pc.StreamingCovariance()
    acc.update(x, y)
    twin = again(acc)
    twin.update(x, y)
    assert (acc.count, twin.count) == (600, 1200)
