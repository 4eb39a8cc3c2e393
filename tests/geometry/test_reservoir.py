"""A subsample of rows: uniform, the same of every representation, and the same however rows are cut into batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from prunecca.covariance.view import View
from prunecca.geometry.reservoir import Reservoir, rows_at


def filled(size: int, seed: int, batches: list[torch.Tensor]) -> Reservoir:
    reservoir = Reservoir(size, seed)
    for batch in batches:
        choice = reservoir.choose(len(batch))
        reservoir.take("x", View.of(batch, "x"), choice)
        reservoir.take("y", View.of(torch.cat([-batch, batch], 1), "y"), choice)
    return reservoir


NUMBERS = torch.arange(60.0).unsqueeze(1)


def test_every_row_is_kept_as_often_as_any_other() -> None:
    times = np.zeros(60)
    for seed in range(400):
        reservoir = Reservoir(12, seed)
        for rows in (7, 1, 30, 22):
            reservoir.choose(rows)
        times[reservoir.positions] += 1
    expected = 400 * 12 / 60
    # The variance of a count is 1 - 12 / 60 of a multinomial one.
    statistic = ((times - expected) ** 2 / expected).sum() / (1 - 12 / 60)
    assert chi2.ppf(0.001, 59) < statistic < chi2.ppf(0.999, 59)


def test_pairs_of_rows_are_kept_as_often_as_any_other() -> None:
    together = np.zeros((8, 8))
    for seed in range(600):
        reservoir = Reservoir(3, seed)
        reservoir.choose(5)
        reservoir.choose(3)
        together[np.ix_(reservoir.positions, reservoir.positions)] += 1
    counts = together[np.triu_indices(8, 1)]
    expected = 600 * 3 / 28
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.999, 27)


@pytest.mark.parametrize("cut", [1, 7, 20, 60])
def test_both_representations_hold_the_same_rows_in_any_batches(cut: int) -> None:
    reservoir = filled(20, 3, list(NUMBERS.split(cut)))
    x, y = reservoir.rows("x"), reservoir.rows("y")
    assert torch.equal(y, torch.cat([-x, x], 1))
    assert x[:, 0].tolist() == reservoir.positions.tolist()
    assert sorted(x[:, 0].tolist()) == sorted(filled(20, 3, [NUMBERS]).rows("x")[:, 0].tolist())
    assert set(x[:, 0].tolist()) != set(filled(20, 4, [NUMBERS]).rows("x")[:, 0].tolist())


def test_few_rows_are_all_kept_in_their_order() -> None:
    assert torch.equal(filled(100, 0, list(NUMBERS.split(9))).rows("x"), NUMBERS)


@pytest.mark.parametrize("sizes", [(60, 0), (50, 10), (20, 40), (3, 57)])
def test_merged_reservoirs_are_one_of_all_rows(sizes: tuple[int, int]) -> None:
    times = np.zeros(60)
    for seed in range(200):
        parts = NUMBERS.split(sizes) if all(sizes) else (NUMBERS, NUMBERS[:0])
        first, second = (filled(12, 2 * seed + k, [part] if len(part) else []) for k, part in enumerate(parts))
        first.merge(second)
        assert first.seen == 60
        assert first.rows("x")[:, 0].tolist() == first.positions.tolist()
        assert torch.equal(first.rows("y")[:, 1:], first.rows("x"))
        times[first.positions] += 1
    assert ((times - 40) ** 2 / 40).sum() / 0.8 < chi2.ppf(0.999, 59)


def test_a_merged_reservoir_goes_on() -> None:
    first, second = filled(5, 0, [NUMBERS[:30]]), filled(5, 1, [NUMBERS[30:50]])
    first.merge(second)
    choice = first.choose(10)
    for name, sign in (("x", 1), ("y", -1)):
        batch = NUMBERS[50:] * sign
        first.take(name, View.of(batch if sign == 1 else torch.cat([batch, -batch], 1), name), choice)
    assert first.rows("x")[:, 0].tolist() == first.positions.tolist()
    assert torch.equal(first.rows("y")[:, 1:], first.rows("x"))


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((6, 4), "nc"), ((6, 4, 3), "ncl"), ((6, 3, 4), "nlc"), ((2, 4, 3, 5), "nchw"), ((2, 3, 5, 4), "nhwc")]
    + [((2, 4, 3, 2, 2), "ncdhw"), ((2, 3, 2, 2, 4), "ndhwc"), ((4, 3, 5), "chw"), ((3, 2, 4), "lnc")],
)
def test_rows_are_gathered_from_any_axis(shape: tuple[int, ...], layout: str) -> None:
    x = torch.randn(shape, dtype=torch.float16)
    view = View.of(x, "x", layout)
    every = np.moveaxis(x.numpy(), layout.index("c"), -1).reshape(-1, 4)
    positions = np.array([0, 5, 3, len(every) - 1])
    assert torch.equal(rows_at(view, positions), torch.from_numpy(every[positions]))


def test_batches_of_inference_mode_can_be_mixed_with_others() -> None:
    reservoir = Reservoir(5, 0)
    for number, batch in enumerate(NUMBERS.split(10)):
        with torch.inference_mode(number % 2 == 0):
            reservoir.take("x", View.of(batch.clone(), "x"), reservoir.choose(10))
    assert reservoir.rows("x")[:, 0].tolist() == reservoir.positions.tolist()


def missing(reservoir: Reservoir) -> Any:
    reservoir.choose(4)
    return reservoir.rows("x")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda r: Reservoir(0), "a reservoir of 0 rows was asked for; expected at least 1"),
        (lambda r: r.take("x", View.of(NUMBERS, "x"), r.choose(3)), "x has 60 rows; expected 3, as were chosen from"),
        (missing, "the sample of 'x' has seen 60 rows of 64; each batch needs it"),
        (lambda r: r.rows("z"), "the sample of 'z' has seen 0 rows of 60"),
        (lambda r: r.merge(Reservoir(4)), "only reservoirs of one size and of the same representations"),
        (
            lambda r: r.take("x", View.of(torch.ones(99, 3), "x"), r.choose(99)),
            "x has 3 channels; expected 1 as before",
        ),
    ],
)
def test_errors_say_what_was_wrong(wrong: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong(filled(20, 0, [NUMBERS]))
