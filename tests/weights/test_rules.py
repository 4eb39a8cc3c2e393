"""What is pruned of each type of module, rules of the user, and parametrised and frozen weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import prunecca as pc

P = pc.pruning
N = nn.utils.parametrizations


def pools_of(*modules: nn.Module, **options: Any) -> dict[str, list[str]]:
    """With a warning for an error, and an output layer that is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return P.pools_by_type(nn.Sequential(*modules, nn.Linear(2, 2)), **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2),
        lambda: nn.GRU(3, 4, bias=False),
        lambda: nn.RNN(3, 4),
        lambda: nn.LSTMCell(3, 4),
        lambda: nn.GRUCell(3, 4),
        lambda: nn.RNNCell(3, 4),
        lambda: nn.MultiheadAttention(4, 2),
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        lambda: nn.MultiheadAttention(4, 2, bias=False),
        lambda: nn.Bilinear(3, 4, 5),
        lambda: nn.ConvTranspose1d(3, 4, 2),
        lambda: nn.ConvTranspose2d(3, 4, 2),
        lambda: nn.ConvTranspose3d(3, 4, 2, bias=False),
    ],
)
def test_all_weights_of_these_modules_are_in_a_pool(make: Callable[[], nn.Module]) -> None:
    module = make()
    names = [f"0.{name}" for name, _ in module.named_parameters()]
    convolution = isinstance(module, nn.modules.conv._ConvNd)
    assert pools_of(module) == {"conv": names if convolution else [], "fc": [] if convolution else names}


def test_a_network_that_is_one_attention_has_no_output_layer() -> None:
    attention = nn.MultiheadAttention(4, 2, kdim=3)
    assert P.pools_by_type(attention)["fc"] == [name for name, _ in attention.named_parameters()]


def test_embeddings_have_a_pool_of_their_own_if_wanted() -> None:
    embeddings = nn.Embedding(9, 4), nn.EmbeddingBag(9, 4)
    assert pools_of(*embeddings, include_embeddings=True)["embedding"] == ["0.weight", "1.weight"]
    assert pools_of(nn.Linear(2, 2), include_embeddings=True)["embedding"] == []
    with pytest.warns(
        P.UnpooledWarning, match=r"no pool takes '0' \(0.weight\); they stay unpruned, 85.7 % of all parameters, "
    ):
        assert P.pools_by_type(nn.Sequential(embeddings[0], nn.Linear(2, 2))) == {"conv": [], "fc": []}


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.bias = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4))
        self.experts = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])


class FineGate(Gate):
    pass


def test_a_rule_of_the_user_says_what_is_pruned_of_a_module() -> None:
    with pytest.warns(P.UnpooledWarning, match=r"no pool takes '0' \(0.mix\)"):
        P.pools_by_type(nn.Sequential(Gate(), nn.Linear(2, 2)))
    experts = ["0.experts.0.weight", "0.experts.1.weight"]
    for module_type in (Gate, "Gate"):
        with P.register_pool_rule(module_type, ["mix", "bias"]):
            assert pools_of(FineGate()) == {"conv": [], "fc": ["0.mix", "0.bias", *experts]}
    with P.register_pool_rule(Gate, ["mix", "experts.*"], "gates"):
        assert pools_of(Gate()) == {"conv": [], "fc": [], "gates": ["0.mix", *experts]}
        assert pools_of(nn.Linear(2, 2)) == {"conv": [], "fc": ["0.weight", "0.bias"]}
        with P.register_pool_rule(FineGate, "bias", "conv"):
            with pytest.warns(P.UnpooledWarning, match=r"'0' \(0.mix\)"):
                pools = P.pools_by_type(nn.Sequential(FineGate(), nn.Linear(2, 2)))
            assert pools == {"conv": ["0.bias"], "fc": experts}
    with P.register_pool_rule(Gate, []):
        assert pools_of(Gate()) == {"conv": [], "fc": experts}
    handle = P.register_pool_rule(nn.Embedding, "weight")
    assert pools_of(nn.Embedding(9, 4))["fc"] == ["0.weight"]
    handle.remove()
    with pytest.warns(P.UnpooledWarning):
        P.pools_by_type(nn.Sequential(nn.Embedding(9, 4)))


def test_rules_that_say_nothing_are_refused() -> None:
    with P.register_pool_rule(Gate, "wieght"), pytest.raises(ValueError) as caught:
        pools_of(Gate())
    assert str(caught.value) == (
        "module '0' (Gate) has no parameter wieght, which its pool rule names; expected some of mix, bias, "
        "experts.0.weight, experts.1.weight"
    )
    with pytest.raises(
        TypeError, match=r"module_type is 3; expected a class derived from torch.nn.Module, or the name"
    ):
        P.register_pool_rule(3, "weight")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a rule was given 1; expected names of parameters, and the name of a pool"):
        P.register_pool_rule(Gate, [1])  # type: ignore[list-item]


def test_frozen_weights_stay_unless_all_are_frozen() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    with pytest.warns(P.UnpooledWarning, match=r"takes '0' \(0.weight, frozen\); they stay unpruned, 15.8 % of all"):
        pools = P.pools_by_type(model)
    assert pools == {"conv": [], "fc": ["1.weight", "1.bias"]}
    model.requires_grad_(False)
    assert P.pools_by_type(model) == {"conv": ["0.weight", "0.bias"], "fc": ["1.weight", "1.bias"]}


class Twice(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


class Shifted(Twice):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + 1


class Inverse(Twice):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.linalg.inv(weight)


def parametrised(step: nn.Module) -> nn.Module:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", step)
    return layer


ORIGINAL = "parametrizations.weight.original"


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: N.spectral_norm(nn.Linear(4, 4)), ["bias", ORIGINAL]),
        (lambda: N.spectral_norm(nn.Conv2d(3, 1, 2)), ["bias", ORIGINAL]),
        (lambda: nn.utils.spectral_norm(nn.Linear(4, 4)), ["bias", "weight_orig"]),
        (lambda: parametrised(Twice()), ["bias", ORIGINAL]),
        (lambda: N.spectral_norm(nn.GRUCell(4, 4, bias=False), "weight_hh"), ["weight_ih", "parametrizations.weight_hh.original"]),
    ],
)  # fmt: skip
def test_originals_whose_zeros_are_zeros_of_the_weight_are_pruned(make: Any, expected: list[str]) -> None:
    model = nn.Sequential(make(), nn.Linear(2, 2))
    before = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pools = P.pools_by_type(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for names in pools.values() for name in names] == [f"0.{name}" for name in expected]
    masks = P.prune(model, pools, 0.5)
    P.apply_masks(model, masks)
    (name,) = (name for name in masks if "orig" in name)
    weight = getattr(model[0].eval(), "weight_hh" if "weight_hh" in name else "weight")
    if isinstance(model[0], nn.Linear) and "parametrizations" not in name:
        weight = model[0](torch.eye(4)).T - model[0].bias[:, None]  # the hook computes it in the forward pass
    assert not bool(weight[~masks[name]].abs().gt(1e-6).any())
    assert bool(weight.isfinite().all())


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (lambda: parametrised(Shifted()), "Shifted"),
        (lambda: parametrised(Inverse()), "Inverse"),
        (lambda: N.weight_norm(nn.LSTMCell(4, 4), "weight_hh"), "WeightNorm"),
        (lambda: N.orthogonal(nn.Bilinear(4, 4, 4)), "Orthogonal"),
    ],
)
def test_weights_that_do_not_keep_their_zeros_are_named(make: Any, how: str) -> None:
    with pytest.warns(P.UnpooledWarning, match=rf"no pool takes '0' \(its weight is computed by {how}\); they stay"):
        assert P.pools_by_type(nn.Sequential(make(), nn.Linear(2, 2)))["fc"] == []


@pytest.mark.parametrize(
    ("module", "name"), [(nn.GRU(3, 4), "weight_hh_l0"), (nn.MultiheadAttention(4, 2), "in_proj_weight")]
)
def test_modules_pruned_by_torch_are_refused(module: nn.Module, name: str) -> None:
    prune.l1_unstructured(module, name, 0.5)
    with pytest.raises(
        ValueError, match=rf"layer '0' is pruned .*; make that .*prune.remove\(module, '{name}'\) before"
    ):
        pools_of(module)


def test_a_lost_bias_is_no_lost_layer() -> None:
    model = nn.LSTM(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        P.prune(model, {"all": ["bias_ih_l0", "bias_hh_l0"]}, 1.0)
