"""A small network of the paper's kind, pruned and trained: what the tests of common mistakes start from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning


class Network(nn.Module):
    """A small network of the paper's kind, with names that lie about what the modules are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.conv1_weight_norm = nn.BatchNorm2d(6)  # a BatchNorm, whatever it is called
        self.head = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 16, 12)
        self.fc_linear = nn.BatchNorm1d(12)
        self.output = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1_weight_norm(self.conv1(x)).relu()
        x = nn.functional.max_pool2d(self.head(x).relu(), 2)
        out: Tensor = self.output(self.fc_linear(self.fc(x.flatten(1))).relu())
        return out


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def prune(model: nn.Module, rate: float = 0.2, previous: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    return P.prune(model, P.pools_by_type(model), {"conv": rate, "fc": rate}, previous)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = torch.randn(16, 1, 8, 8, generator=g), torch.randint(0, 3, (16,), generator=g)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adam-l2": lambda m, k: P.MaskedAdam(m.named_parameters(), k, lr=1e-2, weight_decay=5e-4),
    "adamw": lambda m, k: P.MaskedAdam(
        m.named_parameters(), k, lr=1e-2, weight_decay=1e-2, decoupled_weight_decay=True
    ),
    "sgd-momentum": lambda m, k: P.MaskedSGD(m.named_parameters(), k, lr=1e-2, momentum=0.9, weight_decay=5e-4),
}


def masked(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([state[name].detach()[~mask] for name, mask in masks.items()])


def moments(model: nn.Module, optimizer: torch.optim.Optimizer, masks: Mapping[str, Tensor]) -> Tensor:
    found = [
        value[~mask]
        for name, mask in masks.items()
        for key, value in optimizer.state[model.get_parameter(name)].items()
        if key != "step"
    ]
    return torch.cat(found) if found else torch.zeros(0)


def digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
