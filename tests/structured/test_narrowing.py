"""Narrower networks give what their parents give with the same channels silenced; counts, choice and errors."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning
pytest.importorskip("torch_pruning", reason="needs torch-pruning")


def scrambled(name: str) -> nn.Module:
    """A network whose normalisations have seen something."""
    model = pc.models.build(name, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor += 0.3 * torch.rand(tensor.shape, generator=generator)
    return model


def silenced(model: nn.Module, kept: dict[str, Tensor]) -> nn.Module:
    """The parent, whose channels that are gone give zero: no weight, no bias, and neither in the normalisation."""
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    for name, channels in kept.items():
        layer = name.removesuffix(".weight")
        gone = torch.ones(len(modules[layer].weight), dtype=torch.bool)
        gone[channels] = False
        stem = layer.split(".")
        after = []
        if stem[-1].isdigit():  # in a Sequential its normalisation comes next
            after = [".".join([*stem[:-1], str(int(stem[-1]) + 1)])]
        elif stem[-1].startswith("conv"):
            after = [".".join([*stem[:-1], stem[-1].replace("conv", "bn")])]
        for each in [layer, *after]:
            module = modules.get(each)
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.weight.data[gone] = 0
                if module.bias is not None:
                    module.bias.data[gone] = 0
    return model


@pytest.mark.parametrize("name", ["cifar2", "cifar4-nin", "resnet18", "vgg11_bn"])
def test_the_narrower_network_is_its_parent_without_the_channels(name: str) -> None:
    model = scrambled(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    small, kept = P.narrowed(model, P.l1_channel_scores(model), 0.3, images)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert sum(p.numel() for p in small.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
    for weight, channels in kept.items():
        full, cut = model.get_parameter(weight), small.get_parameter(weight)
        assert len(cut) == len(channels) == len(full) - math.floor(0.3 * len(full))
    with torch.no_grad():
        torch.testing.assert_close(small(images), silenced(model, kept)(images), rtol=1e-4, atol=1e-5)


def test_compare_shows_it_beside_its_parent() -> None:
    model = pc.models.build("resnet18", seed=0)
    images = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    small, _ = P.narrowed(model, P.l1_channel_scores(model), 0.5, images[:1])
    result = pc.compare(model, {"narrower": small}, images, metrics=("linear_cka", "svcca"))
    assert list(dict.fromkeys(result.table["layer"])) == list(dict.fromkeys(model.representation_layers))
    assert result.table["value"].between(0, 1 + 1e-9).all()


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))


X = torch.zeros(1, 1, 6, 6)


def test_lowest_go_and_ties_by_position() -> None:
    scores = {
        "0.weight": torch.tensor([2.0, 1.0, 1.0, 1.0]),
        "2.weight": torch.tensor([-0.0, 5.0, 0.0, 3.0, 2.0**-149, 0.0]),
    }
    _, kept = P.narrowed(chain(), scores, "0.5", X)
    assert {name: channels.tolist() for name, channels in kept.items()} == {"0.weight": [0, 3], "2.weight": [1, 3, 4]}
    _, kept = P.narrowed(chain(), scores, 0.5, X, scope="global")
    assert {name: channels.tolist() for name, channels in kept.items()} == {"0.weight": [0, 2, 3], "2.weight": [1, 3]}


def test_scores_per_multiply_add() -> None:
    # A channel of layer 0: 16 positions x 9, and 4 x 9 x 6 in layer 2; of layer 2: 4 x 9 x 4, and 4 inputs x 2 in layer 5.
    first, second = 16 * 9 + 4 * 9 * 6, 4 * 9 * 4 + 4 * 2
    scores = {"0.weight": torch.tensor([1.0, 1.01, 2.0, 2.0]) * first, "2.weight": torch.full((6,), 1.005) * second}
    _, kept = P.narrowed(chain(), scores, "0.2", X, scope="global", per_operation=True)
    assert {name: channels.tolist() for name, channels in kept.items()} == {
        "0.weight": [1, 2, 3],
        "2.weight": [1, 2, 3, 4, 5],
    }


def test_flags_and_modes_stay() -> None:
    model = chain().eval()
    model[2].train()
    model[0].weight.requires_grad_(False)
    with torch.no_grad():
        small, _ = P.narrowed(model, P.l1_channel_scores(model, {"all": ["0.weight"]}), 0.5, X)
    assert [m.training for m in small] == [m.training for m in model]
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in model.parameters()]
    assert small[2].weight.shape == (6, 2, 3, 3)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gain, self.output = nn.Conv2d(1, 4, 3), nn.Parameter(torch.ones(1, 4, 1, 1)), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.conv(x) * self.gain)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    model[2].weight = model[1].weight
    return model


ONES = torch.ones(4)


@pytest.mark.parametrize(
    ("model", "scores", "options", "message"),
    [
        (
            chain(),
            {"0.weight": ONES},
            {"rate": 1},
            "the rate is 1, and no channel would be left; expected a fraction in",
        ),
        (chain(), {"0.weight": ONES}, {"rate": -0.1}, r"is -0.1; expected a fraction in \[0, 1\]"),
        (chain(), {"0.weight": ONES}, {"scope": "pool"}, "scope is 'pool'; expected layer or global"),
        (chain(), {}, {}, "there are no scores; expected those of one layer at least"),
        (
            chain(),
            {"1.weight": ONES},
            {},
            "torch-pruning cannot cut '1.weight', which is no weight of a convolution or linear",
        ),
        (
            chain(),
            {"0.weight": torch.ones(3)},
            {},
            r"'0.weight' has scores of shape \(3,\); expected a number for each of its 4",
        ),
        (
            chain(),
            {"0.weight": ONES / 0 * 0},
            {},
            "'0.weight' has NaN among its scores; expected a number for each of its 4",
        ),
        (
            chain(),
            {"0.weight": ONES, "2.weight": 2 * torch.ones(6)},
            {"scope": "global"},
            "layer '0.weight' would lose its last channel; expected a lower rate, or scope='layer'",
        ),
        (
            chain(),
            {"5.weight": torch.ones(2)},
            {},
            r"gives \[\(1, 1\)\] instead of \[\(1, 2\)\]; leave its output layer out",
        ),
        (
            Own(),
            {"conv.weight": ONES},
            {},
            "cannot cut 'conv.weight': its channels meet the parameter 'gain', which belongs",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1)),
            {"0.weight": ONES},
            {},
            "cannot cut '0.weight': its channels meet '1', a convolution of 2 groups, which must stay alike",
        ),
        (tied(), {"0.weight": ONES}, {}, "cannot cut '0.weight': '1' shares its weight; leave it out of the scores"),
    ],
)
def test_bad_inputs(model: nn.Module, scores: dict[str, Tensor], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        P.narrowed(model, scores, example=X, **{"rate": 0.5, **options})


def test_without_torch_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(
        ImportError, match=r"narrowed needs torch-pruning; install it with pip install 'prunecca\[structured\]'"
    ):
        P.narrowed(chain(), {"0.weight": ONES}, 0.5, X)
