"""Whole outputs as channels: exact through matrices of datapoints, in rounds, and estimated from batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import IMAGES, cut, network
from torch import nn

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ["2", "5", "8"]
SIMILARITIES = ["linear_cka", "debiased_cka", "procrustes", "nbs", "rsa"]


def flat(model: nn.Sequential, layer: str) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()[: int(layer) + 1](IMAGES).flatten(1)  # type: ignore[union-attr]


def compared(metrics: Any, **options: Any) -> Any:
    return pc.compare(network(), network(1, width=9), cut(IMAGES, 16), LAYERS, metrics, pairs="all", **options).table


def test_every_layer_with_every_layer_agrees_with_the_stored_outputs() -> None:
    table = compared(SIMILARITIES, points="flatten")
    mine, theirs = ({name: flat(model, name) for name in LAYERS} for model in (network(), network(1, width=9)))
    assert len(table) == len(SIMILARITIES) * 9
    for row in table.itertuples():
        expected = pc.METRICS[row.metric](mine[row.layer].double(), theirs[row.layer_y].double())
        assert row.value == pytest.approx(float(expected), abs=1e-6), (row.layer, row.layer_y, row.metric)
    first = table.iloc[0]
    assert (first["count"], first["channels_x"], first["channels_y"], first["points"]) == (60, 864, 1296, "flatten")


def test_a_small_budget_takes_more_passes_and_gives_the_same() -> None:
    passes: list[int] = []
    whole = compared(SIMILARITIES, points="flatten")
    parts = compared(SIMILARITIES, points="flatten", budget=200_000, progress=lambda done, _: passes.append(done))
    assert len(passes) / 4 >= 4
    np.testing.assert_allclose(parts["value"], whole["value"], atol=1e-7)


def test_chance_and_metrics_of_rows() -> None:
    table = compared(["linear_cka", "mutual_knn"], points="flatten", chance="permutation", subsample=40)
    assert table["sampled"].dropna().unique().tolist() == [40]
    own = pc.compare(network(), network(), IMAGES, LAYERS, "mutual_knn", points="flatten").table
    np.testing.assert_allclose(own["value"], 1.0)
    cka = table[table["metric"] == "linear_cka"]
    assert (cka["chance"] < cka["value"].max()).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rows": torch.ones(60, dtype=torch.bool)}, "points='flatten' takes all numbers .* expected neither"),
        ({"metrics": "hard_matching"}, "the covariance is of rotated coordinates .*, such as linear_cka"),
    ],
)
def test_what_flattened_outputs_have_not_is_a_sentence(options: Any, sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=sentence):
        compared(**({"metrics": "linear_cka", "points": "flatten"} | options))


def test_data_of_unknown_or_too_great_length_are_refused() -> None:
    with pytest.raises(ValueError, match="the loader does not tell how many"):
        pc.compare(network(), network(), cut(IMAGES, 16).__iter__(), LAYERS, "linear_cka", points="flatten")
    many = torch.zeros(1, 3, 12, 12).expand(20_001, 3, 12, 12)
    with pytest.raises(
        ValueError, match=r"there are 20001; expected at most 20000: give max_datapoints=, or .*minibatch_cka"
    ):
        pc.compare(network(), network(), many, LAYERS, "linear_cka", points="flatten")


def test_estimates_from_batches() -> None:
    table = compared("minibatch_cka")
    for row in table.itertuples():
        x, y = flat(network(), row.layer), flat(network(1, width=9), row.layer_y)
        estimate = pc.MinibatchCKA()
        for a, b in zip(x.split(16), y.split(16), strict=True):
            estimate.update(a, b)
        assert row.value == pytest.approx(float(estimate.finalize()), abs=1e-6)
        assert (row.batch, row.count) == (16, 60)
    with pytest.raises(ValueError, match="'minibatch_cka' is estimated from whole batches, and the others are not"):
        compared(["minibatch_cka", "linear_cka"])
