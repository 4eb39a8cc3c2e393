"""Whole jobs: a comparison of networks, and an epoch of training, by the host's clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import prunecca as pc
from prunecca.data.splits import Split, Splits
from prunecca.training.config import TrainingConfig
from prunecca.training.training import Training

from .clock import Bench, Case
from .table import OURS, Row

PROBLEM = "cifar10"
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def cases() -> list[Case]:
    return [
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


def _comparison(problem: str, images: int, candidates: int) -> str:
    return f"compare() of {problem}: 1 + {candidates} networks, {images} images"


def _epoch(problem: str, images: int) -> str:
    return f"one epoch of {problem}, {images} images"
