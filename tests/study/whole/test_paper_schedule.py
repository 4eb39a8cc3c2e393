"""`--paper`: every number of the paper's tables 1 to 3 and section 4, in the configuration that a study is made with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from prunecca import pruning
from prunecca.cli.main import app
from prunecca.data.augmentation import Augmentation
from prunecca.data.cifar10 import CIFAR10_CLASSES
from prunecca.data.loading import representation_subset
from prunecca.data.splits import Split, Splits
from prunecca.problems import Problem
from prunecca.storage import states
from prunecca.study import resolve
from prunecca.study.options import Options
from prunecca.study.resolve import ResolvedProblem
from prunecca.study.run_directory import RunDirectory
from prunecca.training.config import TrainingConfig

LARGEST = "64* 64* MP 128* 128* MP 256* 256* MP 512* 512* MP"
# classes, convolutions, fully-connected, epochs, patience, held out, p_conv, p_fc
TABLE: dict[str, tuple[Any, ...]] = {
    "cifar2": (2, "16* 16 MP", "256", 50, None, 0.0, 0.1, 0.2),
    "cifar4": (4, "16* 16 MP 32* 32 MP", "256", 50, None, 0.0, 0.1, 0.2),
    "cifar6": (6, "64* 64 MP 128* 128 MP 256* 256 MP", "256", 100, None, 0.0, 0.1, 0.2),
    "cifar8": (8, LARGEST, "1024*", 200, 20, 0.1, 0.2, 0.2),
    "cifar10": (10, LARGEST, "1024*", 200, 20, 0.1, 0.2, 0.2),
}
CLASSES = ["automobile", "truck", "airplane", "ship", "cat", "dog", "deer", "horse", "bird", "frog"]
PER_CLASS = 600


def images(problem: Problem, *_: Any, **__: Any) -> Splits:
    """As many images for each class, all of them black: nothing here is trained."""
    labels = torch.arange(problem.classes).repeat(PER_CLASS)
    black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8).expand(len(labels), -1, -1, -1)
    split = Split(black, labels, (0.5,) * 3, (0.2,) * 3)
    splits = Splits(problem.name, CIFAR10_CLASSES[: problem.classes], split, split)
    return splits.hold_out(problem.validation) if problem.validation else splits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """What `prunecca reproduce cifar2 ... cifar10 --paper --replicates 20` settles before it trains."""
    out = tmp_path_factory.mktemp("paper") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolve, "load", images)
        patch.setattr("prunecca.study.study.execute", lambda *_, **__: stop())
        resolve._load.cache_clear()
        command = ["reproduce", *TABLE, "--paper", "--replicates", "20", "--out", str(out)]
        assert CliRunner().invoke(app, command).exit_code == 130
    resolve._load.cache_clear()
    return RunDirectory(out)


def stop() -> None:
    raise KeyboardInterrupt


def settled(run: RunDirectory, name: str) -> ResolvedProblem:
    return run.plan().problems[name]


@pytest.mark.parametrize("name", TABLE)
def test_every_number_of_tables_1_to_3(run: RunDirectory, name: str) -> None:
    classes, conv, fc, epochs, patience, validation, p_conv, p_fc = TABLE[name]
    assert run.configuration()["problems"][name]["size"] == {
        **{"levels": 20, "replicates": 20, "controls": 1},
        "first_replicate": 0,
    }
    problem = settled(run, name).problem
    expected = Problem(
        name,
        "cifar10",
        classes,
        conv,
        fc,
        epochs=epochs,
        batch=128,
        patience=patience,
        validation=validation,
        rates={"conv": p_conv, "fc": p_fc},
    )
    assert problem == expected
    assert list(CIFAR10_CLASSES[:classes]) == CLASSES[:classes]


def test_every_number_of_section_4(run: RunDirectory) -> None:
    options = run.plan().options
    assert options == Options(), "the defaults are the paper's"
    assert (options.learning_rate, options.weight_decay) == (1e-3, 5e-4)
    recipe = options.recipe
    assert recipe == dataclasses.replace(pruning.recipe_named("weight_rewinding"), seed=0)
    assert (recipe.rewind_epoch, recipe.rewind_optimizer, recipe.survivors) == (3, "restore", "rewind")
    assert (recipe.criterion, recipe.scope, recipe.pruned, recipe.one_shot) == ("large_final", "pool", "zero", False)
    assert (options.images, options.variance, options.trim, options.metrics[0]) == (5000, 0.99, None, "svcca")
    assert not options.prune_output_layer
    assert options.layers is options.dropout is options.epochs is options.patience is None


@pytest.mark.parametrize("name", TABLE)
def test_training_is_adam_with_l2_on_augmented_batches_of_128(run: RunDirectory, name: str) -> None:
    options, problem = run.plan().options, settled(run, name).problem
    config = TrainingConfig.for_problem(problem, lr=options.learning_rate, weight_decay=options.weight_decay)
    assert (config.epochs, config.batch, config.patience) == (TABLE[name][3], 128, TABLE[name][4])
    assert (config.lr, config.weight_decay) == (1e-3, 5e-4)
    augmentation = config.augmentation
    assert augmentation is not None
    assert augmentation == Augmentation(crop=4, flip=True, rotation=15.0, translation=0.1)


@pytest.mark.parametrize("name", ["cifar2", "cifar10"])
def test_network_layers_and_pools_are_the_papers(run: RunDirectory, name: str) -> None:
    conv = TABLE[name][1]
    model = settled(run, name).build(run.plan().options)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [int(t.strip("*")) for t in conv.split() if t != "MP"]
    assert [d.p for d in model.modules() if isinstance(d, nn.Dropout)] == [0.5]
    pools = pruning.pools_by_type(model)
    assert len(pools["conv"]) == 2 * len(convolutions), "weights and biases"
    assert pools["fc"] == ["fc1.0.weight", "fc1.0.bias"]
    represented: Any = model.representation_layers
    assert len(represented) == len(conv.split()) + 1


def test_level_0_is_trained_once_and_its_19_siblings_prune_it(run: RunDirectory) -> None:
    plan = run.plan()
    networks = [network for network in plan.networks() if network.problem == "cifar8"]
    assert sum(network.level == 0 for network in networks) == 1
    assert sum(network.level > 0 and not network.control for network in networks) == 400
    first = [network for network in networks if network.level == 1 and not network.control]
    assert {plan.parent(network) for network in first} == {networks[0]}
    assert len({network.replicate for network in first}) == 20


@pytest.mark.parametrize("name", ["cifar8", "cifar10"])
def test_a_stratified_tenth_of_the_training_images_validates(name: str) -> None:
    classes = TABLE[name][0]
    splits = images(Problem(name, "cifar10", classes, validation=0.1))
    assert splits.validation is not None
    assert torch.bincount(splits.validation.labels).tolist() == [PER_CLASS // 10] * classes
    assert torch.bincount(splits.train.labels).tolist() == [PER_CLASS * 9 // 10] * classes


def test_the_layers_are_compared_on_5000_fixed_images() -> None:
    split = images(Problem("cifar10", "cifar10", 10)).train
    chosen = [torch.cat([labels for _, labels in representation_subset(split, 5000)]) for _ in range(2)]
    assert len(chosen[0]) == 5000
    assert torch.equal(chosen[0], chosen[1])


def test_without_paper_a_study_is_short(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunecca.study.study.execute", lambda *_, **__: stop())
        assert CliRunner().invoke(app, ["reproduce", "digits2", "--out", str(tmp_path / "run")]).exit_code == 130
    made = states.read_json(tmp_path / "run" / "config.json")["problems"]["digits2"]
    assert made["size"] == {"levels": 5, "replicates": 1, "controls": 1, "first_replicate": 0}
    assert made["settings"]["epochs"] == 10
