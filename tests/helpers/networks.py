"""A small network with every kind of layer, images for it, and the values of its comparison."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor, nn

IMAGES = torch.randn(60, 3, 12, 12, generator=torch.Generator().manual_seed(7))


def network(seed: int = 0, width: int = 6, image: int = 12) -> nn.Sequential:
    """conv - bn - relu (in place) - pool - conv - relu - flatten - linear - relu - dropout - linear."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * (image // 2) ** 2, 10),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(10, 2),
    )
    model[1].running_mean.normal_()
    return model


def cut(images: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of a loader, with labels that nobody reads."""
    return [(part, torch.zeros(len(part))) for part in images.split(size)]


def values(table: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """By candidate, layer and metric."""
    return {(r.candidate, r.layer, r.metric): r.value for r in table.itertuples()}
