"""A tiny network in training on two tiny splits."""

from __future__ import annotations

import torch

from prunecca import models
from prunecca.data.splits import Split
from prunecca.storage import states
from prunecca.training.config import TrainingConfig
from prunecca.training.training import Training

TINY = models.Problem("tiny", "any", 3, "4* 4 MP", "8*")


def images(count, seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 120, (count, 3, 8, 8), generator=generator)
    for row, label in enumerate(labels.tolist()):
        pixels[row, label] += 60  # the class is the bright channel
    return Split(pixels.to(torch.uint8), labels, (0.3,) * 3, (0.2,) * 3)


def tiny(seed=0, dropout=0.5):
    return models.build(TINY, dropout=dropout, image_size=8, seed=seed)


def start(splits, seed=7, model=None, **changes):
    config = TrainingConfig(**{"epochs": 4, "batch": 16, "lr": 0.01, **changes})
    return Training(model or tiny(), splits, config, seed=seed)


def without_seconds(history):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


def everything(training):
    snapshot = training.state()
    return states.digest(snapshot.tensors()), without_seconds(snapshot.records["history"])
