"""Intervals from resamples of groups of batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import prunecca as pc
from prunecca.covariance.accumulator import CovarianceAccumulator
from prunecca.covariance.centred import Centred
from prunecca.covariance.state import State, aligned, combined
from prunecca.covariance.view import View

pytestmark = pytest.mark.usefixtures("one_thread")


def dense(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 7), nn.Tanh())


def inputs(seed: int, count: int = 400) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norms", [False, True])
def test_resampled_states_are_those_of_repeated_rows(norms: bool) -> None:
    parts = [torch.randn(50, 5, generator=torch.Generator().manual_seed(k), dtype=torch.float64) + k for k in range(4)]
    times = [2, 0, 1, 3]

    def state(x: torch.Tensor) -> State:
        acc = CovarianceAccumulator(norms=norms)
        acc.add(View.of(x[:, :3], "x"), [View.of(x[:, 3:], "y")])
        return State(acc.members, acc.cross)

    mixed = combined(aligned([state(x) for x in parts]), times)
    found = Centred(mixed.members).pair(0, 1, mixed.cross[0, 1])
    whole = state(torch.cat([x.repeat(t, 1) for x, t in zip(parts, times, strict=True)]))
    expected = Centred(whole.members).pair(0, 1, whole.cross[0, 1])
    assert found.count == expected.count == 300
    for name in ("xx", "yy", "xy", "mean_x", *(["norms"] if norms else [])):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pairs", ["same", "all"])
def test_values_are_as_without_and_lie_between_the_bounds(pairs: str) -> None:
    options = {"layers": ["1", "3"], "metrics": ["linear_cka", "debiased_cka", "mutual_knn"], "pairs": pairs}
    plain = pc.compare(dense(0), {"a": dense(1), "b": dense(2)}, inputs(0).split(20), **options).table
    table = pc.compare(dense(0), {"a": dense(1), "b": dense(2)}, inputs(0).split(20), intervals=0.9, **options).table
    np.testing.assert_allclose(table["value"], plain["value"], atol=1e-7)
    exact = table[table["metric"] != "mutual_knn"]
    assert (exact["low"] < exact["value"] + 0.05).all()
    assert (exact["high"] > exact["value"] - 0.05).all()
    assert (exact["high"] > exact["low"]).all()
    assert table[table["metric"] == "mutual_knn"][["low", "high"]].isna().all(axis=None)


def test_they_are_as_wide_as_values_of_other_data_scatter() -> None:
    def values(**options: float) -> list[tuple[float, ...]]:
        return [
            tuple(
                pc.compare(dense(0), dense(1), inputs(seed).split(20), ["3"], "linear_cka", **options).table.iloc[0][
                    ["value", "low", "high"] if options else ["value"]
                ]
            )
            for seed in range(12)
        ]

    scatter = np.std([value for (value,) in values()], ddof=1)
    widths = [(high - low) / (2 * 1.645) for _, low, high in values(intervals=0.9)]
    assert 0.4 < np.mean(widths) / scatter < 2.5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"intervals": 95}, "intervals is 95; expected a level between 0 and 1, such as 0.95"),
        ({"intervals": 0.95, "loader": [inputs(0)]}, "intervals need at least 8 batches .* there were 1"),
        ({"intervals": 0.95, "points": "flatten"}, "intervals need rows that are seen once"),
        (
            {"intervals": 0.95, "pairs": "all", "budget": 100},
            "passes over the data within the budget, and intervals need one",
        ),
    ],
)
def test_what_allows_no_intervals_is_a_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pc.compare(dense(0), dense(1), **({"loader": inputs(0).split(20), "metrics": "linear_cka"} | options))  # type: ignore[arg-type]
