"""A weight with several names is one weight: pruned once, counted once, rewound once, whatever name it goes by."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning
pytestmark = pytest.mark.usefixtures("one_thread")
SURVIVORS = ("rewind", "keep", "shuffle", "signed_constant", "reinitialize")
PRUNED = ("zero", "init", "zero_if_shrunk", "frozen", "by_movement")


class Encoder(nn.Module):
    """An encoder whose weight is applied twice: once as it is, or under a second name too."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.enc = nn.Linear(6, 6, bias=False)
        if tied:
            self.dec = nn.Linear(6, 6, bias=False)
            self.dec.weight = self.enc.weight
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        second = getattr(self, "dec", self.enc)
        return self.out(second(torch.relu(self.enc(x))))


def network(tied: bool, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    model = Encoder(False)
    twin = Encoder(tied)
    twin.load_state_dict(model.state_dict() | ({"dec.weight": model.enc.weight} if tied else {}))
    return twin


def weights_at_each_start(tied: bool, recipe: P.Recipe, pools: dict[str, list[str]]) -> list[Tensor]:
    model, starts = network(tied), []

    def train(net: Any, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        starts.append(net.enc.weight.detach().clone())
        generator = torch.Generator().manual_seed(first)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(8, 6, generator=generator)).square().mean().backward()
            optimizer.step()

    def adam(net: nn.Module, masks: Any) -> torch.optim.Optimizer:
        return P.MaskedAdam(net.named_parameters(), masks, lr=0.1, pruned="frozen" if recipe.frozen else "zero")

    levels = list(P.imp(model, recipe, adam, train, pools=pools, fresh=lambda level: network(tied, level).state_dict()))
    assert [level.density for level in levels] == [1, 0.5, 0.25]
    assert all(list(level.masks) == ["enc.weight"] for level in levels)
    return [*starts, model.enc.weight.detach()]


@pytest.mark.parametrize("survivors", SURVIVORS)
@pytest.mark.parametrize("pruned", PRUNED)
def test_every_recipe_treats_a_shared_weight_as_it_treats_one_that_is_not(survivors: str, pruned: str) -> None:
    recipe = P.Recipe(rates=0.5, levels=2, epochs=2, rewind_epoch=1, survivors=survivors, pruned=pruned)
    expected = weights_at_each_start(False, recipe, {"all": ["enc.weight"]})
    for names in (["enc.weight"], ["dec.weight"], ["dec.weight", "enc.weight"]):
        found = weights_at_each_start(True, recipe, {"all": names})
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_masks_stand_under_the_first_name_and_are_taken_by_any() -> None:
    model = network(True)
    first = P.prune(model, {"all": ["dec.weight", "enc.weight"]}, 0.5)
    assert list(first) == ["enc.weight"]
    assert int(first["enc.weight"].sum()) == 18
    again = P.prune(model, {"all": ["dec.weight"]}, 0.5, {"dec.weight": first["enc.weight"]})
    assert int(again["enc.weight"].sum()) == 9
    assert not bool((again["enc.weight"] & ~first["enc.weight"]).any())
    from_state = P.prune(model.state_dict(), {"all": ["dec.weight", "enc.weight"]}, 0.5)
    assert torch.equal(from_state["enc.weight"], first["enc.weight"])
    by_initial = P.prune(
        model, {"all": ["dec.weight"]}, 0.5, criterion="large_init", initial={"dec.weight": model.enc.weight}
    )
    assert torch.equal(by_initial["enc.weight"], first["enc.weight"])
    P.apply_masks(model, {"dec.weight": first["enc.weight"]})
    assert int((model.enc.weight != 0).sum()) == 18
    with pytest.raises(
        ValueError, match=r"'enc.weight' has several names, in the pools 'a' and 'b'; expected one pool"
    ):
        P.prune(model, {"a": ["enc.weight"], "b": ["dec.weight"]}, 0.5)


def test_next_weights_knows_a_shared_weight_from_any_state(tmp_path: Any) -> None:
    model = network(True)
    P.Snapshot.capture(model).save(tmp_path / "start")
    stored = P.Snapshot.load(tmp_path / "start").model
    assert stored["enc.weight"] is stored["dec.weight"]
    apart = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = P.prune(model, {"all": ["enc.weight"]}, 0.5)
    for initial, final in ((stored, apart), (apart, model.state_dict())):
        weights = P.next_weights(P.Recipe(), masks, 1, initial=initial, rewind=apart, final=final)
        for name in ("enc.weight", "dec.weight"):
            assert torch.equal(weights[name], torch.where(masks["enc.weight"], model.enc.weight, 0))
    with pytest.raises(ValueError, match="mask 'gone' has no weight of that name"):
        P.next_weights(P.Recipe(), {"gone": masks["enc.weight"]}, 1, initial=apart, rewind=apart, final=apart)


def test_an_average_of_the_network_takes_the_masks() -> None:
    model = network(False)
    masks = P.prune(model, {"all": ["enc.weight"]}, 0.5)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for copied in (average, nn.ModuleDict({"module": copy.deepcopy(model)}), torch.compile(copy.deepcopy(model))):
        P.apply_masks(copied, masks)
        (found,) = (p for name, p in copied.named_parameters() if name.endswith("enc.weight"))
        assert torch.equal(found != 0, masks["enc.weight"])
    P.apply_masks(model, masks)
    average.update_parameters(model)
    assert not bool(average.module.enc.weight[~masks["enc.weight"]].any())


def test_an_average_inside_the_network_is_named_and_left_out() -> None:
    model = nn.Module()
    model.body, model.head = network(False), nn.Linear(2, 2)
    model.shadow = copy.deepcopy(model.body).requires_grad_(False)
    model.average = torch.optim.swa_utils.AveragedModel(model.body)
    with pytest.warns(P.UnpooledWarning, match=r"no pool takes 'average' \(an average of the network; mask it with "):
        pools = P.pools_by_type(model)
    assert pools["fc"] == ["body.enc.weight", "body.out.weight", "body.out.bias"]
    model.shadow = network(False, seed=3).requires_grad_(False)  # frozen, but nothing like the other
    with pytest.warns(P.UnpooledWarning, match=r"'shadow.enc' \(shadow.enc.weight, frozen\)"):
        P.pools_by_type(model)


@pytest.mark.parametrize("given", [[torch.ones(2)], {0: torch.ones(2)}, ["weight"]])
def test_parameters_without_names_are_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a model, or names with tensors as model.named_parameters"):
        P.prune(given, {"all": ["weight"]}, 0.5)
