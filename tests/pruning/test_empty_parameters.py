"""Parameters without entries, such as the bias of a layer without outputs: nothing to prune and nothing to step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prunecca.pruning as P

EMPTY = {
    "no rows": lambda: torch.empty(0, 3),
    "no columns": lambda: torch.empty(3, 0),
    "nothing": lambda: torch.empty(0),
    "a convolution": lambda: torch.empty(4, 0, 3, 3),
    "channels last": lambda: torch.empty(4, 0, 3, 3).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: torch.empty(5, 0, 2).transpose(0, 2),
    "every second": lambda: torch.empty(6, 0)[::2],
}
OPTIMIZERS = {
    "adam": lambda named, masks: P.MaskedAdam(named, masks, lr=0.1),
    "sgd": lambda named, masks: P.MaskedSGD(named, masks, lr=0.1),
    "momentum": lambda named, masks: P.MaskedSGD(named, masks, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("make", EMPTY.values(), ids=EMPTY.keys())
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_a_step_passes_over_them(make, optimizer):
    parameters = {"empty": nn.Parameter(make()), "full": nn.Parameter(torch.ones(4))}
    masks = {"empty": torch.ones(make().shape, dtype=torch.bool), "full": torch.tensor([True, False, True, True])}
    stepped = optimizer(parameters.items(), masks)
    for _ in range(2):
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        stepped.step()
    assert parameters["full"][1] == 0
    assert (parameters["full"][masks["full"]] < 1).all()
    assert parameters["empty"].shape == make().shape


@pytest.mark.parametrize("make", EMPTY.values(), ids=EMPTY.keys())
@pytest.mark.parametrize("criterion", P.CRITERIA)
def test_masks_of_them_are_empty(make, criterion):
    weights = {"empty": make(), "full": torch.tensor([3.0, -1.0, 2.0, 0.5])}
    initial = {"empty": make(), "full": torch.ones(4)}
    masks = P.prune(weights, {"all": ["empty", "full"]}, 0.5, criterion=criterion, initial=initial)
    assert masks["empty"].shape == make().shape
    assert int(masks["full"].sum()) == 2
    assert P.density(masks) == 0.5
    assert P.density_per_layer(masks) == {"empty": 1.0, "full": 0.5}
    P.apply_masks(weights, masks)
    assert int((weights["full"] == 0).sum()) == 2
    again = P.unpack(P.pack(masks), weights)
    assert all(torch.equal(again[name], masks[name]) for name in masks)
    further = P.prune(weights, {"all": ["empty"]}, 0.5, masks, criterion=criterion, initial=initial)
    assert torch.equal(further["full"], masks["full"])
