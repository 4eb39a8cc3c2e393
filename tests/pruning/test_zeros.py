"""Masks from zeros and into torch's pruning, as files, and pruned networks as plain state_dicts."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import prune

import prunecca as pc
from prunecca.errors import CorruptFile
from prunecca.storage.states import save_state

P = pc.pruning


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2))


def random_masks(model: nn.Module) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    names = [name for names in P.pools_by_type(model, include_output=True).values() for name in names]
    return {name: torch.rand(model.get_parameter(name).shape, generator=g) > 0.5 for name in names}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        assert found[name].dtype == torch.bool
        assert torch.equal(found[name], mask), name


def matrices(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: mask for name, mask in masks.items() if mask.dim() > 1}


def write_shards(folder: Path, state: dict[str, Tensor]) -> None:
    places = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(state)}
    for place in set(places.values()):
        save_file({n: t.contiguous() for n, t in state.items() if places[n] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_zeros_of_every_form_of_a_network_are_its_masks(tmp_path: Path) -> None:
    model = network()
    masks = random_masks(model)
    reparametrised = copy.deepcopy(model)
    P.masks_to(reparametrised, masks)
    P.apply_masks(model, masks)
    state = model.state_dict()
    save_file(state, tmp_path / "whole.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": t for name, t in state.items()}}, tmp_path / "x.pt")
    write_shards(tmp_path, state)
    sources = {
        "network": model,
        "reparametrised": reparametrised,
        "parallel": nn.DataParallel(model),
        "compiled": torch.compile(model, backend="eager"),
        "state": state,
        "state of the reparametrised": reparametrised.state_dict(),
        "safetensors": tmp_path / "whole.safetensors",
        "torch": str(tmp_path / "x.pt"),
        "index": tmp_path / "model.safetensors.index.json",
        "folder": tmp_path,
        "shard": tmp_path / "model-00001-of-00002.safetensors",
    }
    pools = P.pools_by_type(model, include_output=True)
    for source in sources.values():
        for whose in (None, network()):
            assert_same(P.masks_from_zeros(source, whose), matrices(masks))
            assert_same(P.masks_from_zeros(source, whose, pools=pools), masks)


def test_what_is_zero_and_what_is_not() -> None:
    weight = torch.tensor([[0.0, -0.0, 1e-45, float("nan")], [-torch.inf, 1.0, 0.0, 2.0]])
    expected = torch.tensor([[False, False, True, True], [True, True, False, True]])
    for given in (weight, weight.double(), weight.nan_to_num(1).to_sparse()):
        assert_same(P.masks_from_zeros({"w": given}), {"w": expected})
    for dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn):
        halves = torch.tensor([[0.0, 0.5], [-0.0, -2.0]]).to(dtype)
        assert_same(P.masks_from_zeros({"w": halves}), {"w": torch.tensor([[False, True], [False, True]])})
    counts, dense = torch.zeros(2, 2, dtype=torch.int64), torch.ones(2, 2)
    assert_same(
        P.masks_from_zeros({"counts": counts, "w": dense, "bias": torch.zeros(2)}), {"w": torch.ones(2, 2).bool()}
    )
    with pytest.raises(ValueError, match="the state_dict has no weight 'x', which a pool names; it has w"):
        P.masks_from_zeros({"w": dense}, pools={"all": ["x"]})


def test_buffers_have_no_masks_and_tied_weights_one(tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=9, n_embd=4, n_layer=1, n_head=1, n_positions=4, bos_token_id=0, eos_token_id=1
    )
    model = transformers.GPT2LMHeadModel(config)
    model.register_buffer("causal", torch.ones(4, 4).tril())
    masks = P.prune(model, {"all": ["transformer.wte.weight", "transformer.h.0.attn.c_attn.weight"]}, 0.5)
    P.apply_masks(model, masks)
    first = {name: t for name, t in model.state_dict().items() if name != "lm_head.weight"}
    save_file(first, tmp_path / "model.safetensors")
    for source in (model, model.state_dict(), tmp_path / "model.safetensors"):
        found = P.masks_from_zeros(source, model)
        assert_same({name: found[name] for name in masks}, masks)
        assert "causal" not in found
        assert "lm_head.weight" not in found
        assert all(bool(mask.all()) for name, mask in found.items() if name not in masks)
    with pytest.raises(ValueError, match="does not fit the network: it lacks"):
        P.masks_from_zeros(first, network())


class Named(nn.Module):
    """Whose only part is called as a wrapper's part often is."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()


def test_a_network_goes_by_its_own_names() -> None:
    outer = Named()
    masks = {"model.3.weight": torch.rand(5, 16) > 0.5}
    P.masks_to(outer, masks)
    assert_same(P.masks_from(outer), masks)
    state = P.pruned_state(outer)
    assert state.keys() == Named().state_dict().keys()
    assert torch.equal(P.masks_from_zeros(outer)["model.3.weight"], masks["model.3.weight"])


def test_masks_go_into_torchs_pruning_and_back() -> None:
    model = network()
    masks = random_masks(model)
    P.masks_to(nn.DataParallel(model), masks)
    assert prune.is_pruned(model)
    assert_same(P.masks_from(model), {name: masks[name] for name in P.masks_from(model)})
    assert len(P.masks_from(model)) == len(masks)
    model(torch.randn(2, 1, 4, 4)).sum().backward()
    assert not bool(model[3].weight_orig.grad[~masks["3.weight"]].any())
    again = {"3.weight": torch.rand(5, 16) > 0.3}
    P.masks_to(model, again)  # prunes more
    assert torch.equal(P.masks_from(model)["3.weight"], masks["3.weight"] & again["3.weight"])
    for name in masks:
        prune.remove(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
    expected = masks | {"3.weight": masks["3.weight"] & again["3.weight"]}
    assert_same(P.masks_from_zeros(model), matrices(expected))


def test_shared_weights_are_masked_in_all_modules_that_share_them() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    mask = torch.rand(4, 4) > 0.5
    P.masks_to(model, {"1.weight": mask})
    assert model[0].weight_orig is model[1].weight_orig
    assert all(torch.equal(layer.weight != 0, mask) for layer in model)


def test_masks_that_do_not_fit_change_nothing() -> None:
    model = network()
    right = {"0.weight": torch.zeros(4, 1, 3, 3).bool()}
    for wrong in ({"9.weight": torch.ones(1).bool()}, {"3.weight": torch.ones(2).bool()}):
        with pytest.raises(ValueError, match=r"mask '(9.weight' has no parameter|3.weight' has shape)"):
            P.masks_to(model, right | wrong)
    assert not prune.is_pruned(model)


def test_a_pruned_network_is_a_plain_state_dict() -> None:
    model = network()
    masks = random_masks(model)
    expected = {n: torch.where(masks[n], t, 0) if n in masks else t.clone() for n, t in model.state_dict().items()}
    reparametrised = copy.deepcopy(model)
    P.masks_to(reparametrised, masks)
    for source, given in ((model, masks), (reparametrised, None), (reparametrised.state_dict(), None)):
        state = P.pruned_state(source, given)
        network().load_state_dict(state)
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert bool((model[0].weight != 0).all())  # copies were masked
    with pytest.raises(ValueError, match="mask 'x' has no parameter of that name"):
        P.pruned_state(model, {"x": torch.ones(1).bool()})


def test_masks_are_one_file(tmp_path: Path) -> None:
    masks = {
        "b": torch.rand(3, 5) > 0.5,
        "a.weight": torch.rand(2, 3, 4).permute(2, 0, 1) > 0.5,
        "s": torch.tensor(True),
    }
    masks["none"] = torch.ones(0, 4).bool()
    path = tmp_path / "masks.safetensors"
    P.save_masks(path, masks)
    assert_same(P.load_masks(path), dict(sorted(masks.items())))
    assert_same(P.masks_from(path), dict(sorted(masks.items())))
    assert sum(t.numel() for t in load_file(path).values()) == 2 + 3 + 1  # bits
    data = path.read_bytes()
    P.save_masks(path, dict(reversed(masks.items())))
    assert path.read_bytes() == data
    for broken in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"", data.replace(b"[3,5]", b"[5,3]")):
        path.write_bytes(broken)
        with pytest.raises(CorruptFile):
            P.load_masks(path)
    save_state(path, P.pack(masks))  # as in a run directory
    with pytest.raises(
        CorruptFile, match="holds no masks with shapes; expected a file of save_masks, or try masks_from"
    ):
        P.load_masks(path)
    P.save_masks(path, {})
    assert P.load_masks(path) == {}
    with pytest.raises(TypeError, match=r"mask 'x' is torch.float32; expected a tensor of dtype torch.bool"):
        P.save_masks(path, {"x": torch.ones(2)})


def test_masks_of_a_file_are_those_of_a_network(tmp_path: Path) -> None:
    model = network()
    masks = random_masks(model)
    P.save_masks(tmp_path / "m.safetensors", masks)
    assert_same(P.masks_from(tmp_path / "m.safetensors", model), dict(sorted(masks.items())))
    with pytest.raises(ValueError, match=r"mask '0.bias' has no parameter of that name"):
        P.masks_from(tmp_path / "m.safetensors", nn.Sequential(nn.ReLU()))


@pytest.mark.filterwarnings("ignore::prunecca.errors.FewRows")
def test_compare_takes_networks_pruned_by_torch() -> None:
    model, images = network(), torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    removed, reparametrised = copy.deepcopy(model), copy.deepcopy(model)
    masks = random_masks(model)
    P.masks_to(reparametrised, masks)
    P.apply_masks(removed, masks)
    reparametrised.eval()(images).sum().backward()  # its weights are then results of a graph

    def values(*pair: Any) -> list[float]:
        found: list[float] = (
            pc.compare(*pair, images.split(16), metrics=["linear_cka", "svcca"]).table["value"].tolist()
        )
        return found

    assert values(model, reparametrised) == values(model, removed)
    assert values(reparametrised, model) == values(removed, model)
