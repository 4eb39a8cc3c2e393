"""Snapshots, recipes, and the loop of iterative magnitude pruning."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning
pytestmark = pytest.mark.usefixtures("one_thread")


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def adam(model: nn.Module, masks: Mapping[str, Tensor], pruned: str = "zero") -> torch.optim.Optimizer:
    return P.MaskedAdam(model.named_parameters(), masks, lr=1e-2, weight_decay=1e-3, pruned=pruned)


class Trainer:
    """Trains on fixed random images; every epoch's data follow from its number. Logs what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.starts: list[dict[str, Tensor]] = []
        self.moments: list[int] = []

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        self.calls.append((first, last))
        self.starts.append({n: t.clone() for n, t in model.state_dict().items()})
        self.moments.append(len(optimizer.state))
        for epoch in range(first, last):
            g = torch.Generator().manual_seed(epoch)
            x, y = torch.randn(16, 1, 6, 6, generator=g), torch.randint(0, 3, (16,), generator=g)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def run(recipe: P.Recipe, **options: Any) -> tuple[list[P.Level], list[dict[str, Tensor]], Trainer]:
    model, train = network(), Trainer()
    pruned = "frozen" if recipe.frozen else "zero"
    levels, finals = [], []
    for level in P.imp(model, recipe, lambda m, masks: adam(m, masks, pruned), train, **options):
        levels.append(level)
        finals.append({n: t.clone() for n, t in model.state_dict().items()})
    return levels, finals, train


SHORT = {"rates": {"conv": 0.1, "fc": 0.2}, "levels": 3, "epochs": 6, "rewind_epoch": 2}


def pruned_entries(level: P.Level, state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([state[n][~m] for n, m in level.masks.items()])


def kept_entries(level: P.Level, state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([state[n][m] for n, m in level.masks.items()])


def test_the_papers_algorithm() -> None:
    levels, finals, train = run(P.Recipe(**SHORT))
    assert [level.number for level in levels] == [0, 1, 2, 3]
    assert train.calls == [(0, 2), (2, 6), (2, 6), (2, 6), (2, 6)]
    sizes = {"conv": 40, "fc": 520}
    for level, final in zip(levels, finals, strict=True):
        assert sum(int(m.sum()) for m in level.masks.values()) == sum(sizes.values())
        assert (pruned_entries(level, final) == 0).all()
        sizes = {"conv": sizes["conv"] - sizes["conv"] // 10, "fc": sizes["fc"] - sizes["fc"] // 5}
    rewind = train.starts[1]
    for start, level in zip(train.starts[2:], levels[1:], strict=True):
        for name, tensor in start.items():
            mask = level.masks.get(name, torch.ones_like(tensor, dtype=torch.bool))
            assert torch.equal(tensor, torch.where(mask, rewind[name], 0))
    for before, after in pairwise(levels):
        assert not any((after.masks[n] & ~before.masks[n]).any() for n in after.masks)


def test_the_callers_loop_is_the_same() -> None:
    # As a resumable study does it: states and masks in hand, no generator alive.
    recipe = P.Recipe(**SHORT)
    _, finals, _ = run(recipe)
    model, train = network(), Trainer()
    pools = P.pools_by_type(model)
    initial = P.Snapshot.capture(model).model
    optimizer = adam(model, {})
    train(model, optimizer, 0, 2)
    rewind = P.Snapshot.capture(model, optimizer, epoch=2)
    train(model, optimizer, 2, 6)
    masks = None
    for level in (1, 2, 3):
        final = P.Snapshot.capture(model).model
        masks = P.next_masks(recipe, pools, final, masks, level, initial)
        weights = P.next_weights(recipe, masks, level, initial=initial, rewind=rewind.model, final=final)
        model = network(seed=level)
        optimizer = adam(model, masks)
        P.Snapshot(2, weights, rewind.optimizer).restore(model, optimizer, masks=masks)
        train(model, optimizer, 2, 6)
        assert all(torch.equal(t, finals[level][n]) for n, t in model.state_dict().items())


def test_learning_rate_rewinding_keeps_the_weights() -> None:
    levels, finals, train = run(P.recipe_named("learning_rate_rewinding", **SHORT))
    assert train.calls[2:] == [(2, 6)] * 3
    for i in (1, 2, 3):
        start, level = train.starts[1 + i], levels[i]
        assert torch.equal(kept_entries(level, start), kept_entries(level, finals[i - 1]))
        assert (pruned_entries(level, start) == 0).all()
        assert torch.equal(start["1.running_mean"], finals[i - 1]["1.running_mean"])
    assert train.moments == [0, 8, 8, 8, 8]


def test_fine_tuning_goes_on_after_the_end() -> None:
    recipe = P.recipe_named("fine_tuning", **SHORT, retraining_epochs=3)
    _, _, train = run(recipe)
    assert train.calls[2:] == [(6, 9)] * 3


def test_rewound_optimizer_is_an_option() -> None:
    _, _, restored = run(P.Recipe(**SHORT))
    _, _, fresh = run(P.Recipe(**SHORT, rewind_optimizer="fresh"))
    assert restored.moments == [0, 8, 8, 8, 8]
    assert fresh.moments == [0, 8, 0, 0, 0]


def test_one_shot_prunes_the_unpruned_network_to_the_same_counts() -> None:
    iterative, _, _ = run(P.Recipe(**SHORT))
    levels, finals, _ = run(P.recipe_named("one_shot", **SHORT))
    assert [level.density for level in levels] == [level.density for level in iterative]
    for level in levels[1:]:
        kept = torch.cat([finals[0][n][level.masks[n]].abs() for n in ("4.weight", "4.bias")])
        gone = torch.cat([finals[0][n][~level.masks[n]].abs() for n in ("4.weight", "4.bias")])
        assert gone.max() <= kept.min()


@pytest.mark.parametrize("scope", P.masks.SCOPES)
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.29, 1 / 3])
def test_one_shot_counts_are_those_of_iterating_in_every_pool(rate: float, scope: str) -> None:
    # Of which every rate leaves a remainder; a channel has one bias.
    sizes = {"conv": (97, 97), "fc": (103, 103)} if scope == "channel" else {"conv": (97, 10), "fc": (100, 3)}
    pools = {pool: [f"{pool}.weight", f"{pool}.bias"] for pool in sizes}
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(size, generator=generator)
        for pool, names in pools.items()
        for name, size in zip(names, sizes[pool], strict=True)
    }
    once, stepwise = (P.Recipe(rates=rate, scope=scope, one_shot=one_shot) for one_shot in (True, False))
    masks: dict[str, Tensor] | None = None
    for level in range(1, 8):
        masks = P.next_masks(stepwise, pools, weights, masks, level)
        again = P.next_masks(once, pools, weights, None, level)
        for names in pools.values():
            counts = [sum(int(m[name].sum()) for name in names) for m in (masks, again)]
            assert counts[0] == counts[1]
        assert all(torch.equal(masks[name], again[name]) for name in weights), "of one set of weights the masks too"


def test_no_pruning_is_the_control() -> None:
    levels, finals, train = run(P.recipe_named("no_pruning", **{**SHORT, "rates": 0.0}))
    assert [level.density for level in levels] == [1.0] * 4
    assert all(torch.equal(t, train.starts[2][n]) for n, t in train.starts[1].items())
    assert all(torch.equal(t, finals[3][n]) for n, t in finals[0].items())  # same data, same start: same network


def test_random_mask_and_random_reinitialization() -> None:
    levels, _, _ = run(P.recipe_named("random_mask", **SHORT))
    others, _, _ = run(P.recipe_named("random_mask", **SHORT, seed=1))
    assert levels[3].density == others[3].density
    assert not all(torch.equal(m, others[3].masks[n]) for n, m in levels[3].masks.items())
    recipe = P.recipe_named("random_reinitialization", **{**SHORT, "rewind_epoch": 0})
    levels, _, train = run(recipe, fresh=lambda level: network(100 + level).state_dict())
    assert train.calls == [(0, 0), (0, 6), (0, 6), (0, 6), (0, 6)]
    assert torch.equal(kept_entries(levels[2], train.starts[3]), kept_entries(levels[2], network(102).state_dict()))
    with pytest.raises(ValueError, match="needs the state of a new random network"):
        run(recipe)


@pytest.mark.parametrize("survivors", ["shuffle", "signed_constant"])
def test_other_values_for_survivors(survivors: str) -> None:
    recipe = P.Recipe(**SHORT, survivors=survivors)
    levels, _, train = run(recipe)
    rewind, initial = train.starts[1], train.starts[0]
    start, mask = train.starts[2]["4.weight"], levels[1].masks["4.weight"]
    assert (start[~mask] == 0).all()
    if survivors == "shuffle":
        assert not torch.equal(start[mask], rewind["4.weight"][mask])
        assert torch.equal(start[mask].sort()[0], rewind["4.weight"][mask].sort()[0])
    else:
        assert torch.equal(start[mask].sign(), rewind["4.weight"][mask].sign())
        torch.testing.assert_close(start[mask].abs(), initial["4.weight"].std(correction=0).expand(int(mask.sum())))
    assert train.moments[2:] == [0, 0, 0]


def test_pruned_weights_frozen_at_initialisation() -> None:
    levels, finals, train = run(P.Recipe(**SHORT, pruned="init"))
    initial = train.starts[0]
    for i in (1, 2, 3):
        assert torch.equal(pruned_entries(levels[i], finals[i]), pruned_entries(levels[i], initial))
        assert (kept_entries(levels[i], finals[i]) != kept_entries(levels[i], train.starts[i + 1])).any()


def test_pruned_weights_zero_if_they_shrank() -> None:
    levels, finals, train = run(P.Recipe(**SHORT, pruned="zero_if_shrunk"))
    initial = train.starts[0]
    grown = finals[0]["4.weight"].abs() >= initial["4.weight"].abs()
    mask = levels[1].masks["4.weight"]
    expected = torch.where(grown, initial["4.weight"], 0.0)[~mask]
    assert torch.equal(finals[1]["4.weight"][~mask], expected)
    assert 0 < (expected == 0).sum() < len(expected)
    # Once frozen they stay as they are, level after level.
    assert torch.equal(finals[3]["4.weight"][~mask], expected)


@pytest.mark.parametrize("criterion", P.CRITERIA)
def test_every_criterion_runs_and_counts_alike(criterion: str) -> None:
    levels, _, _ = run(P.Recipe(**SHORT, criterion=criterion))
    assert [round(level.density * 560) for level in levels] == [560, 452, 366, 297]


def test_target_density_ends_the_loop() -> None:
    model, train = network(), Trainer()
    recipe = P.Recipe(rates=0.5, levels=20, epochs=2, rewind_epoch=1)
    for level in P.imp(model, recipe, adam, train):
        if level.density < 0.2:
            break
    assert level.number == 3
    assert len(train.calls) == 5


def test_snapshot_restores_everything_but_is_not_touched() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    train = Trainer()
    train(model, optimizer, 0, 2)
    schedule.step()
    snapshot = P.Snapshot.capture(model, optimizer, schedule, epoch=2)
    train(model, optimizer, 2, 5)
    schedule.step()
    expected = {n: t.clone() for n, t in snapshot.model.items()}
    for _ in range(2):
        snapshot.restore(model, optimizer, schedule)
        assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())
        assert optimizer.param_groups[0]["lr"] == 0.05
        assert schedule.last_epoch == 1
        assert {int(s["step"]) for s in optimizer.state.values()} == {2}
        train(model, optimizer, 2, 5)
    snapshot.restore(model, optimizer, optimizer_state="fresh")
    assert not optimizer.state
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_restoring_masks_the_moments_of_any_optimizer() -> None:
    model = network()
    masks = P.prune(model, P.pools_by_type(model), 0.5)
    for make in (torch.optim.Adam, lambda p: torch.optim.SGD(p, momentum=0.9), torch.optim.RMSprop):
        optimizer = make(model.parameters())
        Trainer()(model, optimizer, 0, 3)
        snapshot = P.Snapshot.capture(model, optimizer, epoch=3)
        snapshot.restore(model, optimizer, masks=masks)
        for name, mask in masks.items():
            parameter = model.get_parameter(name)
            moments = [v for k, v in optimizer.state[parameter].items() if k != "step"]
            assert moments
            assert all((tensor[~mask] == 0).all() for tensor in [parameter, *moments])


def test_parts_that_were_not_captured() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters())
    snapshot = P.Snapshot.capture(model)
    with pytest.raises(ValueError, match="snapshot has no optimizer state"):
        snapshot.restore(model, optimizer)
    with pytest.raises(ValueError, match="snapshot has no schedule"):
        snapshot.restore(model, schedule=torch.optim.lr_scheduler.StepLR(optimizer, 1))
    with pytest.raises(ValueError, match="expected 'restore' or 'fresh'"):
        snapshot.restore(model, optimizer_state="keep")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "big"}, "criterion 'big' is unknown"),
        ({"scope": "net"}, "scope is 'net'; expected one of pool, layer, global"),
        ({"survivors": "go"}, "survivors is 'go'; expected one of rewind, keep"),
        ({"pruned": "gone"}, "pruned is 'gone'; expected one of zero, init"),
        ({"rewind_optimizer": "keep"}, "rewind_optimizer is 'keep'; expected one of restore, rewind, fresh"),
        ({"levels": -1}, "levels is -1"),
        ({"epochs": 0}, "epochs 0; expected at least 0 and 1"),
        ({"rewind_epoch": 51}, "rewind_epoch is 51; expected 0 to 50"),
        ({"retraining_epochs": -1}, "retraining_epochs is -1"),
    ],
)
def test_impossible_recipes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        P.Recipe(**options)


def test_recipes_by_name() -> None:
    for name in P.RECIPES:
        assert P.recipe_named(name, levels=2).levels == 2
    assert P.recipe_named("weight_rewinding") == P.Recipe()
    with pytest.raises(ValueError, match="recipe 'han' is unknown; expected one of weight_rewinding"):
        P.recipe_named("han")
