"""Recipes whose scores come from data: Wanda and supermasks in ``imp``, as flags, and in studies with their checkpoints."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import studies
import torch
from torch import nn

import prunecca as pc
from prunecca.data import load, representation_subset
from prunecca.errors import ConfigurationError
from prunecca.integrations.levels import Levels
from prunecca.study.checkpoint import PENALISED
from prunecca.study.level import INITIAL, MASKS
from prunecca.study.options import Options, Size
from prunecca.study.plan import Network
from prunecca.training.evaluation import evaluate

P = pc.pruning
pytestmark = pytest.mark.usefixtures("one_thread")
POOLS = {"all": ["0.weight", "0.bias"]}
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(4)) * torch.logspace(-1, 1, 6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def adam(model: nn.Module, masks: Any) -> torch.optim.Optimizer:
    return P.MaskedAdam(model.named_parameters(), masks, lr=0.05)


class Train:
    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, model: nn.Module, optimizer: Any, first: int, last: int) -> None:
        self.calls.append((type(model).__name__, first, last))
        for _ in range(first, last):
            optimizer.zero_grad()
            model(X).square().sum().backward()
            optimizer.step()


@pytest.mark.parametrize("one_shot", [False, True])
def test_imp_with_wanda_prunes_rows_by_magnitude_times_input(one_shot: bool) -> None:
    recipe = P.recipe_named("wanda", rates=0.4, levels=2, epochs=2, rewind_epoch=1, one_shot=one_shot)
    model, train, finals, levels = network(), Train(), [], []
    squares = [0]

    def measured(network: nn.Module) -> Any:
        squares[0] += 1
        return pc.mean_squares(network, X)

    for level in P.imp(model, recipe, adam, train, pools=POOLS, squares=measured):
        levels.append(level)
        finals.append({n: t.clone() for n, t in model.state_dict().items()})
    assert squares == [2]
    rms = np.sqrt((X.double().numpy() ** 2).mean(0))
    scores = np.abs(finals[0]["0.weight"].double().numpy()) * rms
    for row in range(8):  # floor(0.4 x 6) = 2 of each row go
        assert sorted(np.flatnonzero(~levels[1].masks["0.weight"][row].numpy())) == sorted(np.argsort(scores[row])[:2])
    biases = np.abs(finals[0]["0.bias"].numpy())  # whose input is 1; one row
    assert sorted(np.flatnonzero(~levels[1].masks["0.bias"].numpy())) == sorted(np.argsort(biases)[:3])
    assert (levels[2].masks["0.weight"].sum(1) == 4 - math.floor(0.4 * 4)).all()
    assert train.calls == [("Sequential", 0, 1), ("Sequential", 1, 2), *[("Sequential", 2, 3)] * 2]


def test_imp_with_a_supermask_never_trains_a_weight() -> None:
    recipe = P.recipe_named("supermask", rates=0.5, levels=2, epochs=3, score_epochs=4)
    model, train = network(), Train()
    start = {n: t.clone() for n, t in model.state_dict().items()}
    kept = []
    for level in P.imp(model, recipe, adam, train, pools=POOLS):
        kept.append(sum(int(m.sum()) for m in level.masks.values()))
        if level.number:
            for name, parameter in model.named_parameters():
                mask = level.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
                assert torch.equal(parameter, torch.where(mask, start[name], 0.0))
                assert parameter.requires_grad
            assert not torch.equal(model[1].running_mean, start["1.running_mean"])
    assert kept == [56, 28, 14]
    assert train.calls[2:] == [("Supermask", 0, 4), ("Sequential", 0, 0)] * 2


def test_a_supermask_of_levels_that_follow_one_another_keeps_what_was_pruned() -> None:
    recipe = P.recipe_named("supermask", rates=0.5, levels=3, epochs=1, score_epochs=2, one_shot=False)
    levels = list(P.imp(network(), recipe, adam, Train(), pools=POOLS))
    for before, after in itertools.pairwise(levels):
        assert not any((after.masks[n] & ~m).any() for n, m in before.masks.items())
    assert [sum(int(m.sum()) for m in level.masks.values()) for level in levels] == [56, 28, 14, 7]


@pytest.mark.parametrize("groups", [1, 2])
def test_mean_squares_are_the_diagonals_of_second_moments(groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=groups), nn.ReLU(), nn.Flatten(), nn.Linear(150, 2))
    x = torch.randn(70, 4, 5, 5)
    moments, squares = pc.second_moments(model, x), pc.mean_squares(model, x.split(33))
    assert moments.keys() == squares.keys()
    for name, moment in moments.items():
        diagonal = moment.diagonal(dim1=-2, dim2=-1).numpy().reshape(squares[name].shape)
        np.testing.assert_allclose(squares[name].numpy(), diagonal, rtol=1e-6 if name == "3.weight" else 1e-12)


def test_flags_of_scored_recipes() -> None:
    options = Options.from_flags(recipe="supermask", score_epochs=3, score_rate=0.5, sampling="threshold")
    recipe = options.recipe
    assert (recipe.score_epochs, recipe.score_rate, recipe.sampling, recipe.retraining_epochs) == (
        3,
        0.5,
        "threshold",
        0,
    )
    assert Options.from_flags(**options.flags()) == options
    options = Options.from_flags(recipe="wanda", retraining_epochs=0, scope="2:4", retrain="lr_rewind")
    assert (options.recipe.criterion, options.recipe.scope, options.recipe.retraining_epochs) == ("wanda", "2:4", 0)
    assert Options.from_flags(**options.flags()) == options
    assert Options.from_flags(criterion="wanda").recipe.scope == "pool"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"score_epochs": 2}, "score-epochs is 2; expected --recipe supermask, which learns scores"),
        ({"recipe": "wanda", "sampling": "threshold"}, "sampling is threshold; expected --recipe supermask"),
        ({"recipe": "supermask", "score_epochs": 0}, "score-epochs is 0; expected 1 to "),
        ({"recipe": "supermask", "score_rate": 0.0}, "score-rate is 0.0; expected a number above 0"),
        ({"recipe": "supermask", "sampling": "often"}, "sampling is 'often'; expected one of bernoulli, threshold"),
        ({"criterion": "supermask"}, "criterion is supermask; expected --recipe supermask, or --score-epochs too"),
        ({"retraining_epochs": -1}, "retraining-epochs is -1; expected 0 to "),
    ],
)
def test_flags_that_cannot_be(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        Options.from_flags(**flags)


def test_what_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="score_epochs is 0 with the criterion 'supermask'; expected at least 1"):
        P.Recipe(criterion="supermask")
    with pytest.raises(ValueError, match="criterion 'wanda' is given with the penalty 'l1'; expected one of the two"):
        P.recipe_named("l1", criterion="wanda")
    with pytest.raises(ValueError, match=r"score_rate is nan; expected a finite number"):
        P.Recipe(score_rate=math.nan)
    with pytest.raises(
        ValueError, match="criterion 'supermask' is given with the survivors 'keep', trained values; expected"
    ):
        P.recipe_named("supermask", survivors="keep")
    with pytest.raises(ValueError, match=r"criterion 'best' is unknown; expected one of large_final, .*, supermask"):
        P.Recipe(criterion="best")
    with pytest.raises(ValueError, match="criterion='wanda' needs the inputs of the layers; pass their mean squares"):
        next(P.imp(network(), P.recipe_named("wanda", rates=0.1), adam, Train(), pools=POOLS))
    lstm = nn.LSTM(3, 4)
    loop = P.imp(lstm, P.recipe_named("wanda", rates=0.1, epochs=4), adam, lambda *_: None, squares=lambda model: {})
    next(loop)
    with pytest.raises(ValueError, match="the criterion 'wanda' has no inputs of 'weight_ih_l0'; expected weights of"):
        next(loop)
    for name, words in (("wanda", "criterion is 'wanda'"), ("admm", "penalty is 'admm'")):
        with pytest.raises(ValueError, match=f"^{words}, which needs passes of its own before each pruning"):
            Levels(P.recipe_named(name), None, None)
    with pytest.raises(ValueError, match=r"the input of '0.weight' is not finite"):
        pc.mean_squares(network(), torch.full((4, 6), math.nan))


BASE = {"epochs": 2, "train_images": 64, "images": 16, "metrics": ("nbs",), "dimension_images": 0}
ONE = Network("digits2", 0, 1)


def test_a_supermask_of_a_study_is_resumed_to_the_same_bits_and_holds_initial_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {**BASE, "recipe": "supermask", "score_epochs": 3}
    whole, killed = (studies.start(tmp_path / name, flags, Size(2, 1, 0)) for name in ("whole", "killed"))
    tables = studies.make(whole)
    kept = studies.make_killed(killed, (3, 5), monkeypatch)  # after the first epochs of the scores
    assert kept == ["training.safetensors"] * 2 + [PENALISED] * 7
    for level in (1, 2):
        for name in ("state.safetensors", MASKS):
            network = Network("digits2", 0, level)
            assert whole.path(network, name).read_bytes() == killed.path(network, name).read_bytes()
    assert not list(killed.root.rglob(PENALISED))

    initial, state = studies.state(whole, Network("digits2"), INITIAL), studies.state(whole, ONE)
    model = pc.models.build("digits2")
    masks = P.unpack(studies.state(whole, ONE, MASKS), model)
    assert masks
    for name, _ in model.named_parameters():
        mask = masks.get(name, torch.ones_like(state[name], dtype=torch.bool))
        assert torch.equal(state[name], torch.where(mask, initial[name], 0.0))
    pools = P.pools_by_type(model)
    for level, names in ((1, pools["conv"]), (2, pools["conv"])):
        counted = P.unpack(studies.state(whole, Network("digits2", 0, level), MASKS), model)
        total = sum(counted[n].numel() for n in names)
        left = total
        for _ in range(level):
            left -= left // 10
        assert sum(int(counted[n].sum()) for n in names) == left
    model.load_state_dict(state)
    levels = tables["levels"].set_index("level")
    assert levels.loc[1, "test_accuracy"] == evaluate(model, load("digits2").test)[1]
    assert levels.loc[1, "epochs"] == 0


@pytest.mark.parametrize("retraining", [None, 0, 1])
def test_wanda_in_a_study_is_the_ranking_of_the_fixed_images(tmp_path: Path, retraining: int | None) -> None:
    flags = {**BASE, "recipe": "wanda", "rewind_epoch": 0, "retraining_epochs": retraining}
    run = studies.start(tmp_path / "run", flags, Size(1, 1, 0))
    tables = studies.make(run)
    levels = tables["levels"].set_index("level")
    assert levels.loc[1, "epochs"] == (2 if retraining is None else retraining)
    final = studies.state(run, Network("digits2"))
    model = pc.models.build("digits2")
    model.load_state_dict(final)
    train = load("digits2").train
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:64].sort().values
    images = representation_subset(train.subset(chosen), 16, 0)
    scores = P.wanda_scores(final, pc.second_moments(model, images))
    masks = P.unpack(studies.state(run, ONE, MASKS), pc.models.build("digits2"))
    for name, rate in (("conv1.0.weight", 0.1), ("fc1.0.weight", 0.2)):
        rows, kept = scores[name].flatten(1).numpy(), masks[name].flatten(1).numpy()
        gone = math.floor(rate * rows.shape[1] + 1e-9)
        for row, mask in zip(rows, kept, strict=True):
            assert (~mask).sum() == gone
            assert row[~mask].max() <= row[mask].min() * (1 + 1e-5)
    state = studies.state(run, ONE)
    if retraining == 0:
        assert all(torch.equal(state[n], torch.where(masks[n], final[n], 0.0)) for n in masks)
    else:
        assert not any(state[n][~m].any() for n, m in masks.items())
