"""Consecutive layers of one model, against stored activations in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunecca as pc
from prunecca.comparison import consecutive

pytestmark = pytest.mark.usefixtures("one_thread")


class Residual(nn.Module):
    """A small residual stream of blocks; ``inplace`` writes to it."""

    def __init__(self, width: int = 8, depth: int = 4, inplace: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth))
        self.ends = nn.ModuleList(nn.Identity() for _ in range(depth))
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        for block, end in zip(self.blocks, self.ends, strict=True):
            x = end(x.add_(block(x)) if self.inplace else x + block(x))
        return x


def stored(model: nn.Module, names: list[str], inputs: Tensor) -> list[np.ndarray[Any, Any]]:
    kept: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda m, a, out, name=name: kept.update({name: out.clone()}))
        for name in names
    ]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return [kept[name].double().numpy() for name in names]


def by_hand(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[float, float]:
    cosines = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    return float(1 - cosines.mean()), float(np.arccos(np.clip(cosines, -1, 1)).mean() / np.pi)


ENDS = ["ends.0", "ends.1", "ends.2", "ends.3"]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("apart", [1, 2, 3])
def test_values_are_those_of_stored_activations(apart: int, inplace: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, inputs = Residual(inplace=inplace).eval(), torch.randn(50, 8)
    monkeypatch.setattr(consecutive, "_BLOCK_BYTES", 1000)
    table = pc.consecutive_layers(model, inputs.split(16), ENDS, apart=apart)
    kept = stored(model, ENDS, inputs)
    assert list(zip(table["layer"], table["next_layer"], strict=True)) == list(zip(ENDS, ENDS[apart:], strict=False))
    for row, x, y in zip(table.itertuples(), kept, kept[apart:], strict=False):
        assert (row.block_influence, row.angular_distance) == pytest.approx(by_hand(x, y), abs=1e-7)
        assert (row.count, row.left_out) == (50, 0)
    few = pc.consecutive_layers(model, inputs, ENDS, apart=apart, max_datapoints=20)
    assert set(few["count"]) == {20}


def test_tokens_and_positions_are_rows() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).eval()
    tokens = torch.randn(5, 7, 6)
    (row,) = pc.consecutive_layers(model, [tokens], ["0", "1"]).itertuples()
    assert row.count == 35
    assert (row.block_influence, row.angular_distance) == pytest.approx(
        by_hand(*stored(model, ["0", "1"], tokens)), abs=1e-7
    )
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)).eval()
    images = torch.randn(2, 3, 5, 5)
    (row,) = pc.consecutive_layers(convolutions, images, ["0", "1"]).itertuples()
    kept = [np.moveaxis(side, 1, -1) for side in stored(convolutions, ["0", "1"], images)]
    assert row.count == 50
    assert (row.block_influence, row.angular_distance) == pytest.approx(by_hand(*kept), abs=1e-7)


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@pytest.mark.parametrize("factor", [3.0, 1e-15, 1e15, -2.0])
def test_layers_that_change_the_length_alone(factor: float) -> None:
    model = nn.Sequential(nn.Identity(), Scaled(factor), Scaled(0.0))
    table = pc.consecutive_layers(model, torch.randn(30, 5) * 1e-15, ["0", "1", "2"])
    expected = (0.0, 0.0) if factor > 0 else (2.0, 1.0)
    assert (table["block_influence"][0], table["angular_distance"][0]) == pytest.approx(expected, abs=1e-7)
    assert table["block_influence"].isna().tolist() == table["angular_distance"].isna().tolist() == [False, True]
    assert (table["count"][1], table["left_out"][1]) == (0, 30)


def test_rows_of_zeros_are_left_out() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Identity(), nn.Linear(4, 4)).eval(), torch.randn(20, 4)
    inputs[::4] = 0.0
    (row,) = pc.consecutive_layers(model, inputs, ["0", "1"]).itertuples()
    kept = [side[np.arange(20) % 4 != 0] for side in stored(model, ["0", "1"], inputs)]
    assert (row.count, row.left_out) == (15, 5)
    assert (row.block_influence, row.angular_distance) == pytest.approx(by_hand(*kept), abs=1e-7)


def test_what_cannot_be_compared_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()
    x = torch.randn(10, 4)
    with pytest.raises(
        ValueError, match=r"layer '0' has shape \(10, 4\) but layer '1' has \(10, 3\); expected layers of one"
    ):
        pc.consecutive_layers(model, x, ["0", "1"])
    with pytest.raises(ValueError, match="apart is 0; expected 1 or more"):
        pc.consecutive_layers(model, x, ["0", "1"], apart=0)
    with pytest.raises(ValueError, match="2 layers were chosen; expected at least 3, to compare two of them"):
        pc.consecutive_layers(model, x, ["0", "1"], apart=2)
    with pytest.raises(ValueError, match="the loader gave no inputs"):
        pc.consecutive_layers(model, [], ["0", "1"])
    with pytest.raises(ValueError, match=r"layer 'ends\.0', batch 1: its output holds NaN or infinity"):
        pc.consecutive_layers(Residual().eval(), [torch.ones(2, 8), torch.full((2, 8), torch.nan)], ENDS)
    with pytest.raises(ValueError, match="there is no layer '7'"):
        pc.consecutive_layers(model, x, ["0", "7"])
