"""How many parameters there are, and how many are left."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def count_parameters(model: nn.Module, masks: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Parameters, and how many are left, of each module that has any.

    Args:
        model: the network.
        masks: name of a parameter -> ``torch.bool`` of its shape; where there is none, all are left.

    Returns:
        A row per module: layer, parameters, parameters_left, density.

    Example:
        >>> import torch
        >>> from prunecca.weights.counts import count_parameters
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2))
        >>> count_parameters(model, {"0.weight": torch.eye(2).bool()})
        [{'layer': '0', 'parameters': 6, 'parameters_left': 4, 'density': 0.6666666666666666}]
    """
    rows = []
    for layer, module in model.named_modules():
        own = {f"{layer}.{name}".lstrip("."): p for name, p in module.named_parameters(recurse=False)}
        if own:
            total = sum(p.numel() for p in own.values())
            left = sum(int(masks[name].sum()) if name in masks else p.numel() for name, p in own.items())
            rows.append({"layer": layer, "parameters": total, "parameters_left": left, "density": left / total})
    return rows
