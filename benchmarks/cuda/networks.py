"""Whole jobs: a comparison of networks, and an epoch of training, by the host's clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import prunecca as pc
from prunecca.bench.timing import ratio
from prunecca.data.augmentation import Augmentation
from prunecca.data.splits import Split, Splits
from prunecca.training.config import TrainingConfig
from prunecca.training.evaluation import Precision
from prunecca.training.precision import step_seconds
from prunecca.training.training import Training

from .clock import Bench, Case
from .table import OURS, Aim, Row

PROBLEM = "cifar10"
GOALS = {"cifar2": 0.15, "cifar10": 0.7}  # seconds of an epoch on an H100
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def cases() -> list[Case]:
    return [
        *((_replayed(name), partial(replayed, problem=name)) for name in GOALS),
        (_comparison(PROBLEM, 5000, 20), partial(comparison, problem=PROBLEM, images=5000, candidates=20)),
        (_epoch(PROBLEM, 20000), partial(epoch, problem=PROBLEM, images=20000)),
    ]


def comparison(bench: Bench, problem: str, images: int, candidates: int) -> Row:
    """``compare`` from images on the device to the table, beside the networks' forward passes alone."""
    reference = pc.models.build(problem, seed=0).to(bench.device).eval()
    others = {str(k): pc.models.build(problem, seed=0).to(bench.device).eval() for k in range(candidates)}
    for number, model in enumerate(others.values()):
        masks = pc.pruning.prune(model, pc.pruning.pools_by_type(model), 1 - 0.9 ** (number + 1))
        pc.pruning.apply_masks(model, masks)
    inputs = torch.randn(images, 3, 32, 32, device=bench.device).split(500)
    layers = reference.representation_layers
    table = pc.compare(reference, others, inputs, layers).table
    if len(table) != candidates * len(layers) or not table["value"].between(0, 1).all():
        raise AssertionError("the comparison's table has not a value in [0, 1] for every candidate and layer")
    same = pc.compare(reference, {"itself": reference}, inputs[:2], layers).table["value"]
    error = float((same - 1).abs().max())
    if not error <= 1e-6:
        raise AssertionError(f"a network's similarity with itself is off from 1 by {error}; at most 1e-6 was expected")

    def forward() -> None:
        with torch.no_grad():
            for batch in inputs:
                for model in (reference, *others.values()):
                    model(batch)

    rivals: dict[str, Callable[[], Any]] = {
        OURS: lambda: pc.compare(reference, others, inputs, layers),
        "forward passes alone": forward,
    }
    return Row(
        _comparison(problem, images, candidates),
        bench.race_on_host(rivals, (2, 5)),
        error=error,
        reported={"images": images, "networks": candidates + 1},
    )


def epoch(bench: Bench, problem: str, images: int) -> Row:
    """One epoch, augmented, with masks and channels_last; beside contiguous, bfloat16, and torch's fused Adam unmasked."""
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)
    classes = pc.models.find_problem(problem).classes
    split = Split(pixels, torch.arange(images) % classes, MEAN, STD)
    splits = Splits(
        problem, tuple(map(str, range(classes))), train=split, test=split.subset(torch.arange(min(images, 1000)))
    )

    def training(optimizer: Any = None, **changes: Any) -> Training:
        model = pc.models.build(problem, seed=0).to(bench.device)
        if changes.get("channels_last", True):
            model = model.to(memory_format=torch.channels_last)
        masks = None if optimizer else pc.pruning.prune(model, pc.pruning.pools_by_type(model), PRUNED_RATES)
        config = TrainingConfig(epochs=1000, **changes)
        return Training(model, splits, config, seed=0, masks=masks, optimizer_factory=optimizer)

    def fused(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)

    rivals = {
        OURS: training(),
        "contiguous": training(channels_last=False),
        "bfloat16": training(precision="bfloat16"),
        "torch Adam, no masks": training(fused),
    }
    seconds = bench.race_on_host({name: rival.run_epoch for name, rival in rivals.items()}, (2, 3))
    record = rivals[OURS].history[-1]
    if not 0 < record["train_loss"] < 20:
        raise AssertionError(f"the loss of the last epoch is {record['train_loss']}; expected one of a training")
    return Row(_epoch(problem, images), seconds, reported={"images": images})


PRUNED_RATES = {"conv": 0.5, "fc": 0.5}


def replayed(bench: Bench, problem: str, images: int | None = None) -> Row:
    """One epoch of the paper, its steps replayed from a CUDA graph, with validation and test images looked at.

    In float32 the weights after two epochs are, bit for bit, those of the same steps without a graph, and those of the same
    epochs once more. torch's loop is eager float32 without masks; it looks at no validation or test images.
    """
    splits = _splits(problem, images)

    def training(graphs: bool = True, precision: Precision = "float32") -> Training:
        model = pc.models.build(problem, seed=0).to(bench.device)
        masks = pc.pruning.prune(model, pc.pruning.pools_by_type(model), PRUNED_RATES)
        config = TrainingConfig(epochs=1000, precision=precision)
        made = Training(model, splits, config, seed=0, masks=masks)
        made.graphs = graphs
        return made

    rivals = {"float32 in a graph": training(), "float32 without": training(graphs=False), "again": training()}
    for rival in rivals.values():
        for _ in range(2):
            rival.run_epoch()
    on_device = bench.device.type == "cuda"
    if [rival.captured for rival in rivals.values()] != [on_device, False, on_device]:
        raise AssertionError("the steps that should be replayed from a CUDA graph are not, or others are")
    for name in ("float32 without", "again"):
        pairs = zip(rivals["float32 in a graph"].model.parameters(), rivals[name].model.parameters(), strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            raise AssertionError(
                f"'float32 in a graph' and '{name}' differ in their weights; the same bits were expected"
            )
    del rivals["again"]
    inputs, labels = next(iter(splits.to(bench.device).train.batches(128, channels_last=True)))
    steps = step_seconds(pc.models.build(problem, seed=0).to(bench.device), inputs, labels)
    chosen = min(steps, key=lambda name: steps[name])
    ours = rivals["float32 in a graph"] if chosen == "float32" else training(precision=chosen)
    calls: dict[str, Callable[[], Any]] = {OURS: ours.run_epoch}
    calls |= {name: rival.run_epoch for name, rival in rivals.items() if rival is not ours}
    calls["torch's loop"] = _torch_loop(splits.to(bench.device), problem)
    seconds = bench.race_on_host(calls, (2, 3))
    goal, faster = GOALS[problem], ratio(seconds, "torch's loop", OURS)
    row = Row(_replayed(problem), seconds, error=0.0)
    aims = (
        Aim(f"times faster than {goal:g} s", goal / row.ours, 1.0),
        Aim("times faster than torch's loop", faster, 5.0),
    )
    reported = {f"step_seconds_{name}": value for name, value in steps.items()}
    return Row(**{**vars(row), "aims": aims, "reported": {**reported, "images": len(splits.train)}})


def _torch_loop(splits: Splits, problem: str) -> Callable[[], None]:
    """An epoch as it is written by hand: float32, contiguous, an augmented batch, a step of Adam, and so on."""
    model = pc.models.build(problem, seed=0).to(splits.train.labels.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=5e-4)

    def epoch() -> None:
        total = torch.zeros((), device=splits.train.labels.device)
        for inputs, labels in splits.train.batches(128, seed=0, augmentation=Augmentation()):
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        if not total.isfinite():
            raise AssertionError("the loss of torch's own loop is not finite")

    return epoch


def _splits(problem: str, images: int | None) -> Splits:
    """Random images in the numbers of CIFAR-10 for a problem, or ``images`` of them; what they show takes no time."""
    found = pc.models.find_problem(problem)
    train, test = (5000 * found.classes, 1000 * found.classes) if images is None else (images, images // 5)
    pixels = torch.randint(0, 256, (train + test, 3, 32, 32), dtype=torch.uint8)
    split = Split(pixels, torch.arange(train + test) % found.classes, MEAN, STD)
    parts = (split.subset(index) for index in torch.arange(train + test).split([train, test]))
    splits = Splits(problem, tuple(map(str, range(found.classes))), *parts)
    return splits.hold_out(found.validation) if found.validation else splits


def _comparison(problem: str, images: int, candidates: int) -> str:
    return f"compare() of {problem}: 1 + {candidates} networks, {images} images"


def _replayed(problem: str) -> str:
    return f"one epoch of {problem} in a CUDA graph, the faster precision"


def _epoch(problem: str, images: int) -> str:
    return f"one epoch of {problem}, {images} images"
