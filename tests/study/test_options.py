"""What each option of pruning and retraining means in a study, computed by hand from the files that it leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import studies
import torch
from studies import state
from torch import Tensor

from prunecca import pruning
from prunecca.pruning.criteria import CRITERIA
from prunecca.storage import states
from prunecca.study import level
from prunecca.study.options import Size
from prunecca.study.plan import Network
from prunecca.study.run_directory import INITIAL, MASKS, REWIND, RunDirectory

BASE = {"epochs": 3, "rewind_epoch": 1, "train_images": 64, "images": 16, "metrics": ("nbs",), "dimension_images": 0}
CONV = [f"conv{n}.0.{kind}" for n in range(1, 7) for kind in ("weight", "bias")]
FC = ["fc1.0.weight", "fc1.0.bias"]
UNPRUNED, PRUNED = Network("digits2"), Network("digits2", 0, 1)

State = dict[str, Tensor]


def made(out: Path, levels: int = 1, replicates: int = 1, controls: int = 0, **changes: Any) -> RunDirectory:
    run = studies.start(out, {**BASE, **changes}, Size(levels, replicates, controls))
    studies.make(run)
    return run


def masks(run: RunDirectory, piece: Network = PRUNED) -> State:
    return pruning.unpack(state(run, piece, MASKS), state(run, UNPRUNED))


def lowest_gone(scores: State, names: list[str], rate: float) -> State:
    """Masks without the floor(rate * n) lowest of the scores of all these parameters together."""
    together = torch.cat([scores[name].flatten() for name in names])
    kept = torch.ones(len(together), dtype=torch.bool)
    kept[together.argsort(stable=True)[: int(rate * len(together) + 1e-9)]] = False
    parts = kept.split([scores[name].numel() for name in names])
    return {name: part.reshape(scores[name].shape) for name, part in zip(names, parts, strict=True)}


# Zhou et al. 2019, table 1: what is scored, from final and initial values; the lowest go.
SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "large_final": lambda f, i: f.abs(),
    "small_final": lambda f, i: -f.abs(),
    "large_init": lambda f, i: i.abs(),
    "small_init": lambda f, i: -i.abs(),
    "large_init_large_final": lambda f, i: torch.minimum(f.abs(), i.abs()),
    "small_init_small_final": lambda f, i: -torch.maximum(f.abs(), i.abs()),
    "magnitude_increase": lambda f, i: f.abs() - i.abs(),
    "movement": lambda f, i: (f - i).abs(),
    "large_final_same_sign": lambda f, i: f * i.sign(),
    "score": lambda f, i: f,
}


def test_every_criterion_is_known_here() -> None:
    assert {*SCORES, "random"} == set(CRITERIA)


@pytest.mark.parametrize("criterion", SCORES)
def test_criterion_keeps_what_its_name_says(tmp_path: Path, criterion: str) -> None:
    run = made(tmp_path, criterion=criterion)
    final, initial = state(run, UNPRUNED), state(run, UNPRUNED, INITIAL)
    scores = {name: SCORES[criterion](final[name], initial[name]) for name in (*CONV, *FC)}
    expected = lowest_gone(scores, CONV, 0.1) | lowest_gone(scores, FC, 0.2)
    assert states.digest(masks(run)) == states.digest(expected)


def test_random_mask_is_another_for_each_replicate_and_knows_no_weight(tmp_path: Path) -> None:
    run = made(tmp_path, levels=2, replicates=2, criterion="random")
    first, second = masks(run), masks(run, Network("digits2", 1, 1))
    weight, name = state(run, UNPRUNED)["fc1.0.weight"].abs(), "fc1.0.weight"
    assert not torch.equal(first[name], second[name])
    assert 0.9 < weight[first[name]].mean() / weight[~first[name]].mean() < 1.1
    assert [int(sum(m[n].sum() for n in FC)) for m in (first, second)] == [32832 - 6566] * 2
    after = masks(run, Network("digits2", 0, 2))
    assert not any((after[n] & ~first[n]).any() for n in first)


def test_layer_scope_takes_the_same_fraction_of_every_layer(tmp_path: Path) -> None:
    run = made(tmp_path, scope="layer")
    scores = {name: tensor.abs() for name, tensor in state(run, UNPRUNED).items()}
    expected: State = {}
    for weight, bias in zip(CONV[::2], CONV[1::2], strict=True):
        expected |= lowest_gone(scores, [weight, bias], 0.1)
    assert states.digest(masks(run)) == states.digest(expected | lowest_gone(scores, FC, 0.2))


def test_global_scope_ranks_all_entries_together(tmp_path: Path) -> None:
    run = made(tmp_path, scope="global", conv_rate=0.2)
    scores = {name: tensor.abs() for name, tensor in state(run, UNPRUNED).items()}
    assert states.digest(masks(run)) == states.digest(lowest_gone(scores, [*CONV, *FC], 0.2))


def test_output_layer_is_pruned_with_the_linear_ones_when_asked(tmp_path: Path) -> None:
    run = made(tmp_path, prune_output_layer=True, fc_rate=0.5, conv_rate=0.0)
    scores = {name: tensor.abs() for name, tensor in state(run, UNPRUNED).items()}
    expected = lowest_gone(scores, CONV, 0.0) | lowest_gone(scores, [*FC, "output.weight", "output.bias"], 0.5)
    assert states.digest(masks(run)) == states.digest(expected)
    assert (state(run, PRUNED)["output.weight"][~expected["output.weight"]] == 0).all()


def test_one_shot_prunes_every_level_from_the_unpruned_network(tmp_path: Path) -> None:
    run = made(tmp_path, levels=2, one_shot=True)
    scores = {name: tensor.abs() for name, tensor in state(run, UNPRUNED).items()}
    assert states.digest(masks(run)) == states.digest(lowest_gone(scores, CONV, 0.1) | lowest_gone(scores, FC, 0.2))
    second = masks(run, Network("digits2", 0, 2))
    for names, rate in ((CONV, 0.1), (FC, 0.2)):
        total = left = sum(scores[name].numel() for name in names)
        for _ in range(2):  # level by level: floor acts twice, as in iterative pruning
            left -= int(rate * left + 1e-9)
        expected = lowest_gone(scores, names, (total - left) / total)
        assert states.digest({name: second[name] for name in names}) == states.digest(expected)


@dataclasses.dataclass
class Start:
    """A training as it was before its first epoch."""

    epoch: int
    lr: float
    network: State
    moments: State

    def same(self, expected: State, kept: State) -> None:
        """The network is the expected one with its pruned entries set to zero."""
        for name, tensor in expected.items():
            mask = kept.get(name, torch.ones_like(tensor, dtype=torch.bool))
            assert torch.equal(self.network[name], torch.where(mask, tensor, torch.zeros_like(tensor))), name

    def same_moments(self, rewind: State, kept: State) -> None:
        expected = {name.removeprefix("optimizer."): t for name, t in rewind.items() if name.startswith("optimizer.")}
        assert self.moments.keys() == expected.keys()
        for name, tensor in expected.items():
            mask = kept.get(name.partition(".")[2]) if tensor.ndim else None
            wanted = tensor if mask is None else torch.where(mask, tensor, torch.zeros_like(tensor))
            assert torch.equal(self.moments[name], wanted), name


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Start]:
    """Every training of the study that a test makes, as it started."""
    seen: list[Start] = []
    known: set[int] = set()
    original = level.Training.run_epoch

    def noting(training: Any, progress: Any = None) -> Any:
        if id(training.model) not in known:
            known.add(id(training.model))
            keep.append(training.model)
            tensors = training.state().tensors()
            parts: dict[str, State] = {"model": {}, "optimizer": {}}
            for name, tensor in tensors.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = tensor
            seen.append(Start(training.epoch, training.config.lr, parts["model"], parts["optimizer"]))
        return original(training, progress)

    keep: list[Any] = []  # or another network could get the number of one that is gone
    monkeypatch.setattr(level.Training, "run_epoch", noting)
    return seen


def model_of(rewind: State) -> State:
    return {name.removeprefix("model."): tensor for name, tensor in rewind.items() if name.startswith("model.")}


def test_rewinding_takes_weights_buffers_and_optimizer_of_the_rewind_epoch(tmp_path: Path, starts: list[Start]) -> None:
    run = made(tmp_path, levels=2, controls=1)
    rewind = state(run, UNPRUNED, REWIND)
    assert [start.epoch for start in starts] == [0, 1, 1, 1]
    assert {start.lr for start in starts} == {1e-3}
    starts[0].same(state(run, UNPRUNED, INITIAL), {})
    for start, kept in ((starts[1], masks(run)), (starts[2], masks(run, Network("digits2", 0, 2))), (starts[3], {})):
        start.same(model_of(rewind), kept)  # the last is the control: all of it, and nothing pruned
        start.same_moments(rewind, kept)


def test_rewinding_with_a_fresh_optimizer_takes_no_moments(tmp_path: Path, starts: list[Start]) -> None:
    run = made(tmp_path, rewind_optimizer="fresh")
    starts[1].same(model_of(state(run, UNPRUNED, REWIND)), masks(run))
    assert (starts[1].epoch, starts[1].moments) == (1, {})


def test_rewinding_to_epoch_0_is_the_initialisation(tmp_path: Path, starts: list[Start]) -> None:
    run = made(tmp_path, rewind_epoch=0)
    starts[1].same(state(run, UNPRUNED, INITIAL), masks(run))
    assert (starts[1].epoch, starts[1].moments) == (0, {})


def test_learning_rate_rewinding_keeps_the_weights_and_repeats_the_schedule(
    tmp_path: Path, starts: list[Start]
) -> None:
    run = made(tmp_path, levels=2, retrain="lr_rewind")
    second = Network("digits2", 0, 2)
    for start, parent, kept in ((starts[1], UNPRUNED, masks(run)), (starts[2], PRUNED, masks(run, second))):
        start.same(state(run, parent), kept)
        start.same_moments(state(run, UNPRUNED, REWIND), kept)
        assert (start.epoch, start.lr) == (1, 1e-3)


def test_fine_tuning_keeps_the_weights_at_a_tenth_of_the_rate(tmp_path: Path, starts: list[Start]) -> None:
    run = made(tmp_path, levels=2, retrain="finetune", learning_rate=2e-3)
    assert starts[0].lr == 2e-3
    second = Network("digits2", 0, 2)
    for start, parent, kept in ((starts[1], UNPRUNED, masks(run)), (starts[2], PRUNED, masks(run, second))):
        start.same(state(run, parent), kept)
        assert (start.epoch, start.moments) == (1, {})
        assert start.lr == pytest.approx(2e-4)


def test_reinitialisation_keeps_the_masks_and_nothing_else(tmp_path: Path, starts: list[Start]) -> None:
    run = made(tmp_path, replicates=2, retrain="reinit")
    plan = run.plan()
    networks = [state(run, UNPRUNED, INITIAL)]
    for replicate, start in enumerate(starts[1:]):
        networks.append(plan.problems["digits2"].build(plan.options, replicate, 1).state_dict())
        start.same(networks[-1], masks(run, Network("digits2", replicate, 1)))
        assert (start.epoch, start.moments) == (0, {})
    assert len({states.digest(network) for network in networks}) == 3
    scores = {name: tensor.abs() for name, tensor in state(run, UNPRUNED).items()}
    assert states.digest(masks(run)) == states.digest(lowest_gone(scores, CONV, 0.1) | lowest_gone(scores, FC, 0.2))
