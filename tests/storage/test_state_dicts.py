"""The weights of a network, found in what people save, and the sentences where they are not."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from prunecca.storage.state_dicts import Misfit, find_state


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Sequential(nn.Linear(4, 2)))


STATE = network().state_dict()
SHAPES = {name: tuple(value.shape) for name, value in STATE.items()}
OTHER = {name: value + 1 for name, value in STATE.items()}


def prefixed(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


def same(tensors, state=STATE):
    return tensors.keys() == state.keys() and all(torch.equal(tensors[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "network.", "net.module."]
    + ["_fsdp_wrapped_module.", "model._orig_mod.module."],
)
def test_prefixes_of_wrappers_go(prefix):
    assert same(find_state(prefixed(prefix), "x", SHAPES).tensors)
    assert same(find_state(prefixed(prefix), "x").tensors)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module", "_orig_mod.module"])
def test_wrappers_of_a_part_of_the_network_go(wrapper):
    state = {name.replace("3.0.", f"3.{wrapper}.0."): value for name, value in STATE.items()}
    assert same(find_state(state, "x", SHAPES).tensors)


def test_real_wrappers_are_read():
    for wrapped in (nn.DataParallel(network()), torch.compile(network()), torch.compile(nn.DataParallel(network()))):
        assert same(find_state(wrapped.state_dict(), "x", SHAPES).tensors)
    average = torch.optim.swa_utils.AveragedModel(network())
    assert same(find_state(average.state_dict(), "x", SHAPES).tensors)
    assert same(find_state(average.state_dict(), "x").tensors)


OPTIMIZER = torch.optim.Adam([torch.ones(2, requires_grad=True)])
OPTIMIZER.param_groups[0]["params"][0].grad = torch.ones(2)
OPTIMIZER.step()


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": STATE, "epoch": 3, "optimizer": OPTIMIZER.state_dict()},
        {"model": STATE, "lr_scheduler": {"step": 3}, "scaler": {"scale": torch.ones(1)}},
        {"model_state_dict": STATE, "optimizer_state_dict": {"conv": {"exp_avg": torch.ones(2)}}},
        {"net": prefixed("module."), "acc": 93.1},
        {"ema": {"module": STATE, "decay": 0.99}},
        {"state": {"network": {"weights": STATE}}},
        {"models": [STATE], "shadow_params": [torch.ones(2)]},
        {"state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}, "callbacks": {"best": torch.ones(1)}},
        {"state_dict": STATE, "state_dict_ema": copy.deepcopy(STATE)},
        {**STATE, "epoch": 3},
    ],
)
def test_weights_are_found_where_they_are_nested(content):
    assert same(find_state(content, "x", SHAPES).tensors)
    assert same(find_state(content, "x").tensors)


def test_a_part_of_a_larger_network_is_found_by_the_names_of_the_network():
    content = {"state_dict": {**prefixed("model."), "loss.weight": torch.ones(2)}}
    found = find_state(content, "x", SHAPES)
    assert same(found.tensors)
    assert found.label == "state_dict.model"
    assert same(find_state({"generator": STATE, "critic": {"a.weight": torch.ones(2)}}, "x", SHAPES).tensors)


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ({"state_dict": STATE, "state_dict_ema": OTHER}, ["state_dict", "state_dict_ema"]),
        ({**prefixed("model."), **prefixed("ema_model.", OTHER)}, ["model", "ema_model"]),
        ({"models": [STATE, OTHER]}, ["models.0", "models.1"]),
    ],
)
def test_several_networks_are_listed_and_can_be_named(content, labels):
    with pytest.raises(ValueError) as caught:
        find_state(content, "x.pt", SHAPES)
    assert str(caught.value) == f"x.pt holds several networks: {', '.join(labels)}; name one as x.pt:{labels[1]}"
    assert same(find_state(content, "x.pt", SHAPES, labels[0]).tensors)
    assert same(find_state(content, "x.pt", SHAPES, labels[1]).tensors, OTHER)
    with pytest.raises(ValueError) as caught:
        find_state(content, "x.pt", SHAPES, "third")
    assert str(caught.value) == f"x.pt holds no weights called 'third'; it holds {', '.join(labels)}"


def test_what_does_not_fit_is_named():
    lacking = {name: value for name, value in STATE.items() if not name.startswith("1.")}
    for state, why in (
        (lacking, "it lacks 1.weight, 1.bias, 1.running_mean and 1 more"),
        ({**STATE, "fc.weight": torch.ones(1)}, "it has fc.weight, which the network has not"),
        ({**STATE, "3.0.weight": torch.ones(10, 4)}, "3.0.weight has shape (10, 4), in the network (2, 4)"),
        (
            {**prefixed("module."), "module.0.bias": torch.ones(5), "module.1.bias": torch.ones(5)},
            "0.bias has shape (5,), in the network (4,) (and 1 more differ)",
        ),
    ):
        with pytest.raises(Misfit) as caught:
            find_state(state, "x.pt", SHAPES, whose="the network of digits2")
        assert str(caught.value) == f"x.pt does not fit the network of digits2: {why}"
    for nothing in ({"epoch": 3}, [1, 2], torch.ones(2), None, {"optimizer": OPTIMIZER.state_dict()}):
        with pytest.raises(ValueError, match=r"^x.pt holds no weights; expected the state_dict of a network$"):
            find_state(nothing, "x.pt", SHAPES)


def test_batches_that_were_not_counted_are_no_loss():
    older = {name: value for name, value in STATE.items() if not name.endswith("num_batches_tracked")}
    assert same(find_state(older, "x", SHAPES).tensors, older)


def pruned(model):
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(module, "weight", amount=0.5)
    return model


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, torch.compile])
def test_masks_of_torch_prune_are_applied_and_kept(wrap):
    model = pruned(network())
    found = find_state(wrap(model).state_dict(), "x", SHAPES)
    product = model[0].weight_orig.detach().numpy() * model[0].weight_mask.numpy()
    assert np.array_equal(found.tensors["0.weight"].numpy(), product)
    assert set(found.masks) == {"0.weight", "3.0.weight"}
    assert found.masks["0.weight"].dtype == torch.bool
    assert np.array_equal(found.masks["0.weight"].numpy(), model[0].weight_mask.numpy() == 1)
    assert found.tensors.keys() == STATE.keys()


class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def test_masks_of_parametrisations_are_applied_and_kept():
    model, rows = network(), torch.tensor([1.0, 0, 1, 1])[:, None, None, None]
    parametrize.register_parametrization(model[0], "weight", Masked(rows))
    parametrize.register_parametrization(model[0], "weight", Masked((STATE["0.weight"] > 0).float()))
    found = find_state(prefixed("module.", model.state_dict()), "x", SHAPES)
    assert torch.equal(found.tensors["0.weight"], model[0].weight)
    kept = (STATE["0.weight"].numpy() > 0) & (rows.numpy() == 1)
    assert np.array_equal(found.masks["0.weight"].numpy(), kept)


def test_what_only_code_knows_is_not_read():
    model = network()
    parametrize.register_parametrization(model[0], "weight", nn.Tanh())
    with pytest.raises(Misfit) as caught:
        find_state(model.state_dict(), "x.pt", SHAPES)
    assert str(caught.value) == (
        "x.pt does not fit the network: it lacks 0.weight; it has 0.parametrizations.weight.original, which the network "
        "has not; some weights are reparametrised, and have to be made plain (remove_parametrizations) and saved"
    )
    odd = {**pruned(network()).state_dict(), "0.weight_mask": torch.full((4, 3, 3, 3), 0.5)}
    with pytest.raises(ValueError, match=r"'0.weight_mask' holds other values than 0 and 1; expected the mask of"):
        find_state(odd, "x", SHAPES)
    odd["0.weight_mask"] = torch.ones(5)
    with pytest.raises(
        ValueError, match=r"'0.weight_mask' has shape \(5,\); expected that of '0.weight_orig', \(4, 3, "
    ):
        find_state(odd, "x", SHAPES)


def test_a_checkpoint_that_holds_itself_ends():
    content = {"state_dict": STATE}
    content["again"] = [content, content, {"content": content}]
    wide = [STATE]
    for _ in range(50):
        wide = [wide] * 50
    assert same(find_state({"a": content, "b": wide}, "x", SHAPES).tensors)
