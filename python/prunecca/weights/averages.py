"""Running averages of a network that are part of it: torch's, and frozen copies."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_ALIKE = 0.5  # relative distance below which frozen weights are an average of others; independent ones differ by 1.4


def averages(model: nn.Module) -> list[str]:
    """Submodules that are running averages of the network: torch's ``AveragedModel``, or a frozen copy of another."""
    shapes: dict[Any, list[nn.Module]] = {}
    frozen: list[tuple[str, nn.Module, Any]] = []
    found: list[str] = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if name and isinstance(module, torch.optim.swa_utils.AveragedModel):
            found.append(name)
        if not parameters or any(isinstance(p, nn.UninitializedParameter) for p in parameters):
            continue
        shape = (type(module), tuple(p.shape for p in parameters))
        if all(p.requires_grad for p in parameters):
            shapes.setdefault(shape, []).append(module)
        elif name and not any(p.requires_grad for p in parameters):
            frozen.append((name, module, shape))
    for name, module, shape in frozen:
        if not inside(name, found) and any(_alike(module, other) for other in shapes.get(shape, [])):
            found.append(name)
    return found


@torch.no_grad()
def _alike(module: nn.Module, other: nn.Module) -> bool:
    """Whether all matrices of weights are about the same."""
    pairs = [(a.float(), b.to(a.device).float()) for a, b in zip(module.parameters(), other.parameters(), strict=True)]
    matrices = [(a, b) for a, b in pairs if a.dim() > 1]
    return bool(matrices) and all(float((a - b).norm()) <= _ALIKE * float(b.norm()) for a, b in matrices)


def inside(name: str, outer: list[str]) -> bool:
    """Whether a module is one of these, or inside of one; the network itself has the name ''."""
    return any(not prefix or name == prefix or name.startswith(prefix + ".") for prefix in outer)
