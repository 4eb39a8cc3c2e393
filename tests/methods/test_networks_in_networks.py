"""The paper's problems with the head of a network in network: no fully-connected layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import prunecca as pc
from prunecca.models import PROBLEMS, ConvNet, build

NAMES = [f"cifar{n}-nin" for n in (2, 4, 6, 8, 10)]


@pytest.mark.parametrize("name", NAMES)
def test_all_but_the_head_is_the_papers_network(name: str) -> None:
    own, paper = build(name, seed=0), build(name.removesuffix("-nin"), seed=0)
    assert not [module for module in own.modules() if isinstance(module, nn.Linear)]
    heads = ("nin1", "fc1", "output")
    pair = [{n: t.shape for n, t in m.state_dict().items() if not n.startswith(heads)} for m in (own, paper)]
    assert pair[0] == pair[1]
    assert own.representation_layers[:-1] == paper.representation_layers[:-1]
    assert own.representation_layers[-1] == "nin1"
    schedules = [
        (p.dataset, p.classes, p.epochs, p.batch, p.patience, p.validation, p.rates)
        for p in (PROBLEMS[name], PROBLEMS[name.removesuffix("-nin")])
    ]
    assert schedules[0] == schedules[1]


def test_logits_are_means_over_the_image() -> None:
    model = build("cifar10-nin", seed=0).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps: list[torch.Tensor] = []
    model.get_submodule("output").register_forward_hook(lambda module, inputs, output: maps.append(output))
    logits = model(images)
    assert logits.shape == (2, 10)
    assert maps[0].shape == (2, 10, 2, 2)
    torch.testing.assert_close(logits, maps[0].mean((2, 3)))


def test_hidden_convolutions_are_pruned_and_the_output_is_not() -> None:
    pools = pc.pruning.pools_by_type(build("cifar2-nin", seed=0))
    assert pools["conv"][-2:] == ["nin1.0.weight", "nin1.0.bias"]
    assert pools["fc"] == []
    masks = pc.pruning.next_masks(pc.pruning.Recipe(), pools, build("cifar2-nin", seed=0).state_dict(), None, 1)
    assert pc.pruning.density(masks) == pytest.approx(0.9, abs=1e-3)


def test_the_notation() -> None:
    layers = ConvNet("8* MP", "NIN 16* 8", classes=3, dropout=0.1)
    names = ["conv1", "pool1", "nin1", "dropout1", "nin2", "dropout2", "output", "average", "flatten"]
    assert [name for name, _ in layers.named_children()] == names
    assert isinstance(layers.get_submodule("nin1.1"), nn.BatchNorm2d)
    with pytest.raises(ValueError, match="'NIN' is not a layer"):
        ConvNet("NIN 8", "16", classes=3)
