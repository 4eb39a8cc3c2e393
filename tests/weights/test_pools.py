"""What the pools take, what they leave out and say so, and rates of every kind of number."""

from __future__ import annotations

import warnings
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import prunecca as pc

P = pc.pruning
N = nn.utils.parametrizations


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.attention = nn.LSTM(5, 8), nn.MultiheadAttention(8, 2)
        self.words = nn.Embedding(9, 4)
        self.token = nn.Parameter(torch.zeros(1, 8))
        self.norm = nn.LayerNorm((2, 8))
        self.hidden, self.out = nn.Linear(8, 4), nn.Linear(4, 3)


def test_weights_that_no_pool_takes_are_named() -> None:
    with pytest.warns(P.UnpooledWarning) as caught:
        pools = P.pools_by_type(Recurrent())
    recurrent = [f"rnn.{kind}_{part}_l0" for kind in ("weight", "bias") for part in ("ih", "hh")]
    attention = [f"attention.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")]
    assert pools == {"conv": [], "fc": [*recurrent, *attention, "hidden.weight", "hidden.bias"]}
    assert str(caught[0].message) == (  # 8 + 36 of 895 parameters
        "no pool takes '' (token), 'words' (words.weight); they stay unpruned, 4.9 % of all parameters, unless you name "
        "their parameters in pools of your own or register a rule (register_pool_rule)"
    )
    assert caught[0].filename == __file__


def test_a_network_that_the_pools_take_whole_is_no_matter() -> None:
    tied = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm((3, 4)), nn.Linear(4, 9))
    tied[3].weight = tied[0].weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert P.pools_by_type(tied)["fc"] == ["1.weight", "1.bias"]
        for name in ("cifar10", "resnet18"):
            P.pools_by_type(pc.models.build(name))


@pytest.mark.parametrize(
    ("layer", "how"),
    [
        (lambda: N.weight_norm(nn.Linear(10, 20)), "WeightNorm"),
        (lambda: N.orthogonal(nn.Linear(10, 20)), "Orthogonal"),
        (lambda: nn.utils.weight_norm(nn.Linear(10, 20)), "weight_norm"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_layers_whose_weight_is_computed_are_named_and_left_out(layer: Any, how: str) -> None:
    model = nn.Sequential(layer(), nn.ReLU(), nn.Linear(20, 8), nn.Linear(8, 3))
    with pytest.warns(P.UnpooledWarning, match=rf"no pool takes '0' \(its weight is computed by {how}\); they stay"):
        pools = P.pools_by_type(model)
    assert pools == {"conv": [], "fc": ["2.weight", "2.bias"]}
    name = next(name for name, p in model[0].named_parameters() if p.dim() > 1 and p.numel() > 20)
    masks = P.prune(model, {"own": [f"0.{name}"]}, 0.5)  # by name, all can be pruned
    P.MaskedAdam(model.named_parameters(), masks)
    assert not bool(dict(model.named_parameters())[f"0.{name}"][~masks[f"0.{name}"]].any())


def test_layers_pruned_by_torch_are_refused_with_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(ValueError, match=r"layer '0' is pruned by torch.nn.utils.prune already; make that permanent"):
        P.pools_by_type(model)
    prune.remove(model[0], "weight")
    assert P.pools_by_type(model)["fc"] == ["0.bias", "0.weight"]


@pytest.mark.parametrize("pools", [{}, {"conv": [], "fc": []}])
def test_nothing_to_prune_is_an_error_before_anything_is_trained(pools: dict[str, list[str]]) -> None:
    model, recipe = nn.Sequential(nn.Linear(4, 2)), P.Recipe(rates=0.5, levels=1)

    def never(*_: Any) -> Any:
        raise AssertionError

    for call in (
        lambda: P.prune(model, pools, 0.5),
        lambda: P.full_masks(model, pools),
        lambda: next(P.imp(model, recipe, never, never, pools=pools)),
        lambda: next(P.imp(model, recipe, never, never)),
    ):
        with pytest.raises(ValueError, match="there is nothing to prune: no pool names a parameter"):
            call()
    with pytest.raises(ValueError, match="pool 'fc' has no rate"):
        next(P.imp(model, P.Recipe(rates={"conv": 0.1}), never, never))


@pytest.mark.parametrize(
    ("rate", "pruned"),
    [
        (np.float32(0.7), 210),
        (np.float16(0.29), 87),
        (np.float64(0.29), 87),
        (np.array(0.7, np.float32), 210),
        (torch.tensor(0.7), 210),
        (torch.tensor(0.29, dtype=torch.bfloat16), 87),
        (torch.tensor(0.29, dtype=torch.float16, requires_grad=True), 87),
        (torch.tensor(0.29, dtype=torch.float64), 87),
        (Fraction(1, 3), 100),
        (Decimal("0.29"), 87),
        ("0.29", 87),
        ("1/3", 100),
        (1, 300),
        (np.int64(0), 0),
        (torch.tensor(1), 300),
        (1 / 3, 99),  # the decimal 0.3333333333333333
    ],
)
def test_rates_are_taken_as_written(rate: Any, pruned: int) -> None:
    weights, pools = {"w": torch.arange(1.0, 301.0)}, {"all": ["w"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", P.LayerCollapseWarning)
        for rates in (rate, {"all": rate}):
            assert 300 - int(P.prune(weights, pools, rates)["w"].sum()) == pruned


@pytest.mark.parametrize("rate", [None, True, torch.tensor(True), 1j, [0.1], torch.ones(1), np.ones(2), object()])
def test_what_is_no_number_is_no_rate(rate: Any) -> None:
    with pytest.raises(
        TypeError, match=r"pruning rate of pool 'all' is .*; expected a number in \[0, 1\], such as 0.2 or"
    ):
        P.prune({"w": torch.ones(3)}, {"all": ["w"]}, rate)


@pytest.mark.parametrize("rate", ["half", "20%", np.float32("nan"), Decimal("inf"), torch.tensor(-0.1), 2, "1/0"])
def test_rates_outside_the_unit_interval(rate: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"pruning rate of pool 'all' is .*; expected a"):
        P.prune({"w": torch.ones(3)}, {"all": ["w"]}, rate)
