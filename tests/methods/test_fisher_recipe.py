"""The recipe of Crowley et al. 2018: channels by their Fisher information, against single datapoints in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import studies
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import prunecca as pc
from prunecca.data import load, representation_subset
from prunecca.errors import ConfigurationError
from prunecca.integrations.levels import Levels
from prunecca.methods.channels import scores_of_channels
from prunecca.study.level import MASKS
from prunecca.study.options import Options, Size
from prunecca.study.plan import Network

P = pc.pruning
pytestmark = pytest.mark.usefixtures("one_thread")
TINY = 2.0**-149
VALUES = [0.0, TINY, 3 * TINY, 5e-324, 0.1, math.nextafter(0.1, 1), 0.5, 1.0, 1e300, 1e308, math.inf]
POOLS = {"conv": ["a.weight", "a.bias", "b.weight", "b.bias", "c.weight"]}


class Joined(nn.Module):
    """Two convolutions whose outputs are summed before the activation, and one that runs on the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(2, 6, 1)
        self.c = nn.Conv2d(6, 5, 3, bias=False)
        self.unused = nn.Linear(5, 5)
        self.output = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.relu(self.a(x) + self.b(x))
        last = torch.relu(self.c(joined))
        self.taken = {"a.weight": joined, "b.weight": joined, "c.weight": last}
        return self.output(last.mean((2, 3)))


torch.manual_seed(3)
IMAGES, LABELS = torch.randn(9, 2, 6, 6), torch.randint(3, (9,))


def network() -> Joined:
    torch.manual_seed(0)
    return Joined()


def by_hand(model: nn.Module, taken: Any, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """``1 / (2 N) sum_n (sum_hw a dL/da)^2``, one datapoint after the other."""
    scores: dict[str, Tensor] = {}
    for image, label in zip(images.double(), labels, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        for name, activation in taken().items():
            (gradient,) = torch.autograd.grad(loss, activation, retain_graph=True)
            product = (activation * gradient)[0].reshape(activation.shape[1], -1).sum(1).detach()
            scores[name] = scores.get(name, 0) + product**2 / (2 * len(images))
    return scores


def lowest(score: Tensor, number: int) -> list[int]:
    return sorted(sorted(range(len(score)), key=lambda c: (float(score[c]), c))[:number])


def gone(mask: Tensor) -> list[int]:
    """The channels that are pruned, each as a whole."""
    rows = mask.reshape(len(mask), -1)
    assert torch.equal(rows.any(1), rows.all(1))
    return (~rows.any(1)).nonzero().flatten().tolist()


def test_layers_that_share_an_activation_each_have_its_scores() -> None:
    model = network()
    expected = by_hand(double := network().double(), lambda: double.taken, IMAGES, LABELS)
    found = P.fisher_channel_scores(model, (IMAGES, LABELS), pools=POOLS, for_each=True)
    assert found.keys() == expected.keys()
    for name, score in found.items():
        torch.testing.assert_close(score, expected[name], rtol=1e-4, atol=1e-10)
    first = P.fisher_channel_scores(model, (IMAGES, LABELS), pools=POOLS)
    assert first.keys() == {"a.weight", "c.weight"}
    assert all(torch.equal(score, found[name]) for name, score in first.items())
    assert P.fisher_channel_scores(model, (IMAGES, LABELS), pools={"x": ["b.weight"]}).keys() == {"b.weight"}


@pytest.mark.parametrize("one_shot", [False, True])
def test_imp_prunes_the_channels_of_lowest_scores_and_rewinds(one_shot: bool) -> None:
    recipe = P.recipe_named("fisher", rates=0.4, levels=2, epochs=3, rewind_epoch=1, one_shot=one_shot)
    assert recipe.retraining == P.recipe_named("structured", epochs=3, rewind_epoch=1).retraining
    model, calls, states, levels = network(), [], [], []
    epoch_one: dict[str, Tensor] = {}

    def adam(model: nn.Module, masks: Any) -> torch.optim.Optimizer:
        return P.MaskedAdam(model.named_parameters(), masks, lr=0.02)

    def train(model: nn.Module, optimizer: Any, first: int, last: int) -> None:
        if len(calls) == 1:
            epoch_one.update({n: t.clone() for n, t in model.state_dict().items()})
        if len(calls) > 1:  # rewound, and masked
            for name, value in model.state_dict().items():
                own = value != 0
                assert torch.equal(value[own], epoch_one[name][own])
        calls.append((first, last))
        for _ in range(first, last):
            optimizer.zero_grad()
            F.cross_entropy(model(IMAGES), LABELS).backward()
            optimizer.step()

    def scored(model: nn.Module) -> Mapping[str, Tensor]:
        return P.fisher_channel_scores(model, (IMAGES, LABELS), pools=POOLS, for_each=True)

    for level in P.imp(model, recipe, adam, train, pools=POOLS, channel_scores=scored):
        levels.append(level)
        states.append({n: t.double() for n, t in model.state_dict().items()})
    assert calls == [(0, 1), (1, 3), (1, 3), (1, 3)]
    double = network().double()
    for number in (1, 2):
        double.load_state_dict(states[0 if one_shot else number - 1])
        expected = by_hand(double, lambda: double.taken, IMAGES, LABELS)
        for name, counts in (("a.weight", (2, 3)), ("b.weight", (2, 3)), ("c.weight", (2, 3))):  # of 6, 6 and 5
            score = expected[name]
            before = [] if one_shot else gone(levels[number - 1].masks[name])
            score[before] = -1.0  # what is gone is gone
            assert gone(levels[number].masks[name]) == lowest(score, counts[number - 1])
        for name in "ab":
            assert gone(levels[number].masks[f"{name}.bias"]) == gone(levels[number].masks[f"{name}.weight"])
            assert gone(levels[number].masks["a.weight"]) == gone(levels[number].masks[f"{name}.weight"])
        assert not any(states[number][n][~m].any() for n, m in levels[number].masks.items())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    values=st.lists(st.sampled_from(VALUES), min_size=1, max_size=12),
    rate=st.sampled_from(["0", "0.2", "0.29", "0.5", "1/3"]),
    seed=st.integers(0, 10**6),
)
def test_counts_are_exact_and_ranked_by_the_scores_to_the_bit(values: list[float], rate: str, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    weights = {"w.weight": torch.zeros(len(values), 3, 2), "w.bias": torch.zeros(len(values))}
    alive = torch.rand(len(values), 3, 2, generator=g) < 0.4  # channels partly dead, as entries were pruned before
    scores = torch.tensor(values, dtype=torch.float64)
    spread = scores_of_channels(weights, {"all": list(weights)}, {"w.weight": scores}, {"w.weight": alive})
    masks = P.prune(spread, {"all": list(weights)}, rate, {"w.weight": alive}, criterion="score", scope="channel")
    living = [c for c in range(len(values)) if alive[c].any()]
    ranked = sorted(living, key=lambda c: (values[c], c))
    kept = sorted(ranked[math.floor(Fraction(rate) * len(living)) :])
    assert masks["w.weight"].flatten(1).any(1).nonzero().flatten().tolist() == kept
    assert torch.equal(masks["w.weight"][kept], alive[kept])
    assert masks["w.bias"].nonzero().flatten().tolist() == kept


def test_flags_stand_for_the_recipe() -> None:
    options = Options.from_flags(recipe="fisher", retraining_epochs=2)
    assert options.recipe == P.recipe_named("fisher", retraining_epochs=2)
    assert Options.from_flags(**options.flags()) == options
    assert Options.from_json(options.as_json()) == options
    assert Options.from_flags(recipe="structured", criterion="fisher") == Options.from_flags(recipe="fisher")


def test_what_is_refused_in_one_sentence() -> None:
    for flags in ({"criterion": "fisher"}, {"recipe": "fisher", "scope": "row"}):
        with pytest.raises(ConfigurationError, match=r"^scope is (pool|row); expected channel, as in --recipe fisher"):
            Options.from_flags(**flags)
    with pytest.raises(
        ValueError, match="'fisher' is given with the scope '2:4'; expected 'channel', as it scores whole"
    ):
        P.recipe_named("fisher", scope="2:4")
    with pytest.raises(ValueError, match="criterion 'fisher' is given with the penalty 'l1'; expected one of the two"):
        P.recipe_named("l1", criterion="fisher", scope="channel")
    with pytest.raises(ValueError, match=r"^criterion is 'fisher', which needs passes"):
        Levels(P.recipe_named("fisher"), None, None)
    with pytest.raises(ValueError, match="criterion='fisher' needs scores of the channels; pass a function that gives"):
        next(P.imp(network(), P.recipe_named("fisher", rates=0.1), lambda *_: None, lambda *_: None))  # type: ignore[arg-type]
    model = network()
    found = P.fisher_channel_scores(model, (IMAGES, LABELS), for_each=True)
    with pytest.raises(ValueError, match=r"^'unused.weight' has no scores of channels; expected weights of linear"):
        scores_of_channels(model, P.pools_by_type(model), found)
    with pytest.raises(ValueError, match=r"^'a.bias' has no scores of channels"):
        scores_of_channels(model, {"all": ["a.bias"]}, found)
    with pytest.raises(
        ValueError, match=r"^'a.weight' of shape \(6, 2, 3, 3\) has scores of shape \(5,\); expected \(6,\)"
    ):
        scores_of_channels(model, {"all": ["a.weight"]}, {"a.weight": found["c.weight"]})
    spoilt = scores_of_channels(model, {"all": ["c.weight"]}, {"c.weight": torch.full((5,), math.nan)})
    with pytest.raises(ValueError, match=r"parameter 'c.weight' has a NaN score"):
        P.prune(spoilt, {"all": ["c.weight"]}, 0.2, criterion="score", scope="channel")


def test_a_study_ranks_by_the_fixed_images_and_their_labels(tmp_path: Path) -> None:
    base = {"epochs": 2, "train_images": 64, "images": 16, "metrics": ("nbs",), "dimension_images": 0}
    run = studies.start(tmp_path, {**base, "recipe": "fisher", "rewind_epoch": 1, "conv_rate": 0.25}, Size(2, 1, 0))
    levels = studies.make(run)["levels"].set_index("level")
    assert levels.loc[[1, 2], "epochs"].tolist() == [1, 1]
    train = load("digits2").train
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:64].sort().values
    images, labels = next(iter(representation_subset(train.subset(chosen), 16, 0)))
    model, taken = pc.models.build("digits2").double().eval(), {}
    for name, module in model.named_children():
        if isinstance(module, nn.Sequential):
            module.register_forward_hook(lambda _, i, output, name=name: taken.update({f"{name}.0.weight": output}))
    before: dict[str, Tensor] = {}
    for level in (1, 2):
        model.load_state_dict(studies.state(run, Network("digits2", 0, 1) if level > 1 else Network("digits2")))
        expected = by_hand(model, lambda: taken, images, labels)
        masks = P.unpack(studies.state(run, Network("digits2", 0, level), MASKS), pc.models.build("digits2"))
        for name, score in expected.items():
            dead = gone(before[name]) if before else []
            more = math.floor((0.25 if name.startswith("conv") else 0.2) * (len(score) - len(dead)))
            score[dead] = -1.0
            assert gone(masks[name]) == lowest(score, len(dead) + more)
            assert gone(masks[name.replace("weight", "bias")]) == gone(masks[name])
        before = masks
