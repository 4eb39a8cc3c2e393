"""Rounds over the data fill the dual form within a budget."""

from __future__ import annotations

import pytest
import torch

import prunecca as pc
from prunecca.sizes.rounds import FeatureRounds, feature_rounds

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("features", [[200, 300], [1, 999], [7], [5, 5, 5], [1000, 1, 1]])
@pytest.mark.parametrize("columns", [3, 10, 100, 5000])
def test_a_plan_has_each_feature_once_and_keeps_to_the_budget(features: list[int], columns: int) -> None:
    plan = feature_rounds(features, 60, columns * 60 * 4)
    for member, count in enumerate(features):
        assert [k for ranges in plan for k in range(ranges[member].start, ranges[member].stop)] == list(range(count))
    for ranges in plan:
        assert sum(one.stop - one.start for one in ranges) <= columns
    assert len(plan) == 1 or columns < sum(features)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [37, 1000])
def test_batches_of_several_rounds(dtype: torch.dtype, columns: int) -> None:
    make = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, 5, 3, generator=make).to(dtype)
    y = (x.flatten(1)[:, :55].float() + torch.randn(50, 55, generator=make)).to(dtype)
    filling = FeatureRounds([60, 55], 50, columns * 50 * 4)
    for _ in filling.rounds:
        for start in (0, 20, 40):
            filling.add(0, x[start : start + 20])
            filling.add(1, y[start : start + 20])
        filling.end_round()
    assert filling.accumulator.features == (60, 55)
    expected = pc.nbs(x.double(), y.double(), layout="flat")
    assert pc.nbs(filling.accumulator.finalize()) == pytest.approx(expected, abs=1e-6)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="the budget is 0 bytes; expected more than 0"):
        feature_rounds([5], 5, 0)
    filling = FeatureRounds([5], 6, 1000)
    with pytest.raises(ValueError, match=r"^layer 'a': a datapoint has 4 features; expected 5$"):
        filling.add(0, torch.randn(2, 4), where="layer 'a'")
    filling.add(0, torch.randn(4, 5))
    with pytest.raises(ValueError, match=r"^a round has 4 datapoints; expected 6, the same in each round$"):
        filling.end_round()
    with pytest.raises(ValueError, match=r"^a round has more than 6 datapoints; expected the same in each round$"):
        filling.add(0, torch.randn(4, 5))
