"""Masks as other tools keep them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

import prunecca as pc
from prunecca.storage.states import save_state

EXPECTED = torch.tensor([[True, False, True], [False, False, True]])


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def masked():
    model = network()
    prune.custom_from_mask(model[0], "weight", EXPECTED.float())
    return model


@pytest.mark.parametrize("with_network", [False, True])
def test_masks_of_a_network_a_state_and_files_are_the_same(tmp_path, with_network):
    state = masked().state_dict()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 1}, tmp_path / "x.pt"
    )
    save_file(state, tmp_path / "x.safetensors")
    for source in (masked(), state, {"ema": {"module": state}}, tmp_path / "x.pt", str(tmp_path / "x.safetensors")):
        masks = pc.pruning.masks_from(source, network() if with_network else None)
        assert list(masks) == ["0.weight"]
        assert torch.equal(masks["0.weight"], EXPECTED)


def test_masks_of_a_run_directory_and_of_bits(tmp_path):
    save_state(tmp_path / "masks.safetensors", pc.pruning.pack({"0.weight": EXPECTED}))
    masks = pc.pruning.masks_from(tmp_path / "masks.safetensors", network())
    assert torch.equal(masks["0.weight"], EXPECTED)
    with pytest.raises(ValueError, match="holds masks as bits, which have no shape; give the network too"):
        pc.pruning.masks_from(tmp_path / "masks.safetensors")
    for there in (None, network()):
        assert torch.equal(pc.pruning.masks_from({"0.weight": EXPECTED}, there)["0.weight"], EXPECTED)
    with pytest.raises(ValueError, match=r"mask '1.gain' has no parameter of that name; expected one of 0.weight, "):
        pc.pruning.masks_from({"1.gain": EXPECTED}, network())
    with pytest.raises(ValueError, match=r"mask '0.bias' has shape \(2, 3\); expected that of its parameter, \(2,\)"):
        pc.pruning.masks_from({"0.bias": EXPECTED}, network())


def test_zeros_are_no_masks():
    with pytest.raises(ValueError) as caught:
        pc.pruning.masks_from(nn.utils.prune.remove(masked()[0], "weight"))
    assert str(caught.value) == (
        "the state_dict holds no masks; expected weight_orig and weight_mask, as torch.nn.utils.prune keeps them before "
        "prune.remove"
    )
    with pytest.raises(
        ValueError, match=r"the state_dict does not fit the network: it lacks 0.weight, 0.bias; it has other"
    ):
        pc.pruning.masks_from({"other": torch.ones(2)}, nn.Sequential(nn.Linear(3, 2)))
