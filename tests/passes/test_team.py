"""What a comparison keeps beside the products: what other datapoints give, and a sample of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import IMAGES, cut, network, values
from torch import Tensor, nn

import prunecca as pc
from prunecca.covariance.view import View

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS = torch.randn(600, 6, generator=torch.Generator().manual_seed(3))


def dense(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 7), nn.Tanh())


def stored(model: nn.Module, layer: str) -> Tensor:
    with torch.no_grad():
        return model.eval()[: int(layer) + 1](INPUTS)  # type: ignore[index]


@pytest.mark.parametrize("pairs", ["same", "all"])
def test_metrics_of_rows_see_the_same_rows_of_both(pairs: str) -> None:
    names = ["mutual_knn", "linear_cka", "rbf_cka"]
    table = pc.compare(dense(0), dense(1), INPUTS.split(70), ["1", "3"], names, pairs=pairs).table
    assert table["metric"].tolist() == names * (len(table) // 3)
    assert table["sampled"].isna().tolist() == [False, True, False] * (len(table) // 3)
    for row in table[table["metric"] != "linear_cka"].itertuples():
        expected = pc.METRICS[row.metric](stored(dense(0), row.layer), stored(dense(1), row.layer_y))
        assert row.value == pytest.approx(float(expected), abs=1e-6)


def test_a_subsample_is_the_same_in_every_call_and_of_its_size() -> None:
    tables = [
        pc.compare(dense(0), dense(1), INPUTS.split(size), ["1"], "rbf_cka", subsample=200).table for size in (70, 300)
    ]
    assert tables[0]["sampled"].tolist() == [200]
    assert tables[0]["value"][0] == pytest.approx(tables[1]["value"][0], abs=1e-7)


@pytest.mark.parametrize("options", [{}, {"pairs": "all"}, {"pairs": "all", "budget": 100}])
def test_chance_is_what_unrelated_rows_give(options: dict[str, Any]) -> None:
    result = pc.compare(
        dense(0),
        dense(0),
        INPUTS.split(100),
        ["1", "3"],
        ["mean_squared_cca", "linear_cka"],
        chance="permutation",
        **options,
    )
    table = result.table[result.table["layer"] == result.table["layer_y"]]
    np.testing.assert_allclose(table["value"], 1.0, atol=1e-6)
    # Independent normal rows: the larger number of directions over the rows less one.
    squares = table[table["metric"] == "mean_squared_cca"]
    np.testing.assert_allclose(squares["chance"], squares["kept_x"].astype(float) / 599, rtol=0.6)
    assert (table["chance"] < 0.05).all()
    assert "chance" not in pc.compare(dense(0), dense(0), INPUTS, ["1"]).table


def test_chance_is_that_of_whole_datapoints() -> None:
    """Neighbouring positions are alike: rows in any order would hide that there are few datapoints."""
    smooth = torch.randn(24, 4, 1, 1).expand(24, 4, 8, 8) + 0.01 * torch.randn(24, 4, 8, 8)
    model = nn.Sequential(nn.Identity())
    table = pc.compare(model, model, [smooth], ["0"], "mean_squared_cca", chance="permutation", layout="nchw").table
    assert table["chance"][0] > 0.05  # 4 directions of 24 datapoints; of 1536 independent rows it would be 0.003


def test_values_are_the_same_with_and_without_companions() -> None:
    plain = pc.compare(network(), network(1), cut(IMAGES, 16), metrics=["svcca", "debiased_cka"])
    more = pc.compare(
        network(), network(1), cut(IMAGES, 16), metrics=["svcca", "debiased_cka", "jaccard"], chance="permutation"
    )
    found = {key: value for key, value in values(more.table).items() if key[2] != "jaccard"}
    assert found == values(plain.table)


def test_every_datapoint_is_in_the_place_of_another() -> None:
    x = torch.arange(50.0).reshape(10, 1, 5).expand(10, 3, 5)
    view = View.of(x, "x", "ncl")
    other = view.shuffled(torch.Generator().manual_seed(0)).tensor
    assert sorted(other[:, 0, 0].tolist()) == x[:, 0, 0].tolist()
    assert bool((other != x).all())
    kept = View.of(x, "x", "ncl", rows=torch.arange(50) % 3 > 0)
    rows = kept.shuffled(torch.Generator().manual_seed(0)).tensor[:, 0]
    assert sorted(rows.tolist()) == [r for r in range(50) if r % 3]


def test_another_word_for_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="chance is 'shuffle'; expected 'permutation'"):
        pc.compare(dense(0), dense(1), INPUTS, chance="shuffle")  # type: ignore[arg-type]
