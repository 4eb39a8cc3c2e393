"""Recipes that draw weights to zero before they are pruned: the loop by hand, the flags, and the study with its checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import studies
import torch
from torch import Tensor, nn

import prunecca as pc
from prunecca.errors import ConfigurationError
from prunecca.pruning.recipe import RECIPES
from prunecca.storage import states
from prunecca.study.checkpoint import PENALISED
from prunecca.study.options import Options, Size
from prunecca.study.plan import Network

P = pc.pruning
pytestmark = pytest.mark.usefixtures("one_thread")
POOLS = {"all": ["0.weight", "0.bias"]}
SHORT: dict[str, Any] = {"rates": 0.5, "levels": 2, "epochs": 3, "rewind_epoch": 1, "penalty_epochs": 2}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def adam(model: nn.Module, masks: Any) -> torch.optim.Optimizer:
    return P.MaskedAdam(model.named_parameters(), masks, lr=0.05)


class Train:
    def __init__(self) -> None:
        self.calls: list[tuple[int, int, str]] = []

    def __call__(self, model: nn.Module, optimizer: Any, first: int, last: int) -> None:
        self.calls.append((first, last, optimizer.penalty.kind))
        for epoch in range(first, last):
            inputs = torch.randn(9, 6, generator=torch.Generator().manual_seed(epoch))
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()


@pytest.mark.parametrize("kind", ["l1", "l1_loss", "admm"])
@pytest.mark.parametrize("one_shot", [False, True])
def test_imp_draws_then_prunes_then_trains_what_is_left(kind: str, one_shot: bool) -> None:
    recipe = P.recipe_named(kind, **SHORT, one_shot=one_shot)
    model, train, finals = network(), Train(), []
    levels = []
    for level in P.imp(model, recipe, adam, train, pools=POOLS):
        levels.append(level)
        finals.append({n: t.clone() for n, t in model.state_dict().items()})
    assert train.calls == [(0, 1, "none"), (1, 3, "none"), *[(3, 4, kind), (4, 5, kind), (1, 3, "none")] * 2]
    assert [int(sum(m.sum() for m in level.masks.values())) for level in levels] == [56, 28, 14]

    # The second level by hand, from what the library gave for the one before.
    by_hand, again = network(), Train()
    before = P.full_masks(by_hand, POOLS) if one_shot else levels[1].masks
    by_hand.load_state_dict(finals[0 if one_shot else 1])
    optimizer = P.MaskedAdam(by_hand.named_parameters(), before, lr=0.05)
    optimizer.set_penalty(kind, recipe.penalty_strength, POOLS["all"])

    def choose(values: dict[str, Tensor]) -> dict[str, Tensor]:
        masks = P.prune(values, POOLS, 0.5, before)
        return P.prune(values, POOLS, 0.5, masks) if one_shot else masks

    for epoch in (3, 4):
        if kind == "admm":
            optimizer.update_duals(choose)
        again(by_hand, optimizer, epoch, epoch + 1)
    masks = choose(dict(by_hand.named_parameters()))
    optimizer = P.MaskedAdam(by_hand.named_parameters(), masks, lr=0.05)
    again(by_hand, optimizer, 1, 3)
    assert states.digest(masks) == states.digest(levels[2].masks)
    assert all(torch.equal(t, finals[2][n]) for n, t in by_hand.state_dict().items())
    assert not any(finals[2][n][~m].any() for n, m in levels[2].masks.items())


def test_a_penalty_needs_an_optimizer_that_knows_it() -> None:
    recipe = P.recipe_named("l1", **SHORT)
    loop = P.imp(network(), recipe, lambda m, masks: torch.optim.SGD(m.parameters()), lambda *_: None, pools=POOLS)
    next(loop)
    with pytest.raises(
        TypeError, match="penalty 'l1', and make_optimizer gave a SGD; expected a MaskedAdam or MaskedSGD"
    ):
        next(loop)


def test_impossible_penalties() -> None:
    with pytest.raises(ValueError, match="penalty is 'l0'; expected one of none, l1, l1_loss, admm"):
        P.Recipe(penalty="l0")
    with pytest.raises(ValueError, match=r"strength of the penalty 'l1' is 0.0; expected a number above 0"):
        P.Recipe(penalty="l1", penalty_epochs=1)
    with pytest.raises(ValueError, match="penalty_epochs is 0 with the penalty 'admm'; expected at least 1"):
        P.Recipe(penalty="admm", penalty_strength=0.1)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_flag_and_goes_through_json(name: str) -> None:
    options = Options.from_flags(recipe=name)
    assert Options.from_flags(**options.flags()) == options
    assert Options.from_json(json.loads(json.dumps(options.as_json()))) == options
    wanted = P.recipe_named(name)
    for field in ("survivors", "final_rate", "one_shot", "criterion", "penalty", "penalty_strength", "penalty_epochs"):
        assert getattr(options.recipe, field) == getattr(wanted, field)
    assert options.recipe.rewind_epoch == wanted.rewind_epoch
    assert (options.conv_rate, options.fc_rate) == ((0.0, 0.0) if name == "no_pruning" else (None, None))


def test_flags_go_before_the_recipe() -> None:
    options = Options.from_flags(recipe="admm", penalty_strength=0.5, penalty_epochs=2, retrain="finetune", scope="row")
    recipe = options.recipe
    assert (recipe.penalty, recipe.penalty_strength, recipe.penalty_epochs) == ("admm", 0.5, 2)
    assert (recipe.final_rate, recipe.scope) == (True, "row")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"recipe": "amp"}, "recipe is 'amp'; expected one of weight_rewinding, "),
        (
            {"penalty_strength": 0.1},
            "penalty-strength is 0.1; expected a --recipe that has a penalty: l1, l1_loss or admm",
        ),
        ({"recipe": "one_shot", "penalty_epochs": 1}, "penalty-epochs is 1; expected a --recipe that has a penalty"),
        ({"recipe": "l1", "penalty_strength": -1.0}, "penalty-strength is -1.0; expected a number above 0"),
        ({"recipe": "l1", "penalty_epochs": 0}, "penalty-epochs is 0; expected 1 to "),
        ({"scope": "4:2"}, "scope is '4:2'; expected one of pool, layer, global, row, channel, or N:M such as 2:4"),
    ],
)
def test_flags_that_cannot_be(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        Options.from_flags(**flags)


BASE = {"epochs": 2, "rewind_epoch": 1, "train_images": 64, "images": 16, "metrics": ("nbs",), "dimension_images": 0}


def test_a_study_that_is_killed_while_weights_are_drawn_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {**BASE, "recipe": "admm", "penalty_epochs": 3, "penalty_strength": 0.1}
    whole, killed = (studies.start(tmp_path / name, flags, Size(1, 1, 0)) for name in ("whole", "killed"))
    studies.make(whole)
    # In the first epochs of the penalty, and in the training after it.
    kept = studies.make_killed(killed, (3, 4, 6), monkeypatch)
    assert kept == ["training.safetensors"] * 2 + [PENALISED] * 3 + ["training.safetensors", PENALISED]
    network = Network("digits2", 0, 1)
    for name in ("state.safetensors", "masks.safetensors"):
        assert whole.path(network, name).read_bytes() == killed.path(network, name).read_bytes()
    assert not list(killed.root.rglob(PENALISED))
