"""The state of any torch optimizer as named tensors: ``exp_avg.conv1.0.weight``, ``step.conv1.0.weight``, ...

torch numbers parameters by their position; here each tensor carries its parameter's name, so that a state can be
read, compared and masked without the optimizer that made it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Copies of all state tensors, and the state's plain numbers, both by ``key.parameter name``."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, parameter, _ in _named(model, optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{key}.{name}"] = value.detach().clone()
            else:
                numbers[f"{key}.{name}"] = value
    return tensors, numbers


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """Replace the whole state by copies of what ``optimizer_tensors`` gave; ``ValueError`` for an unknown parameter.

    Tensors of a parameter's shape get its memory layout and device. Dtypes stay: moments may be wider than parameters.
    """
    state: dict[str, dict[str, Any]] = defaultdict(dict)
    for full_name, value in [*tensors.items(), *numbers.items()]:
        key, _, name = full_name.partition(".")
        state[name][key] = value
    known = {name: (parameter, group) for name, parameter, group in _named(model, optimizer)}
    for name in state:
        if name not in known:
            raise ValueError(f"the state has moments of '{name}', but the optimizer has no such parameter")
    optimizer.state.clear()
    for name, (parameter, group) in known.items():
        if name in state:
            optimizer.state[parameter] = {key: _placed(v, parameter, group) for key, v in state[name].items()}


def _named(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter, dict[str, Any]]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield names[parameter], parameter, group


def _placed(value: Any, parameter: Tensor, group: Mapping[str, Any]) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape == parameter.shape and value.dim() > 0:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    # A step counter lies on the CPU, unless the optimizer's kernel reads it on the device.
    on_device = group.get("fused") or group.get("capturable")
    return value.detach().to(parameter.device if on_device else "cpu", copy=True)
