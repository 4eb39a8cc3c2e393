"""The state of any torch optimizer by the names of its parameters: ``exp_avg.conv1.0.weight``, ``step.conv1.0.weight``, ...

torch numbers parameters by their position; with names, a state can be read, compared, masked and stored without the
optimizer that made it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimizerState:
    """Copies of everything that an optimizer remembers.

    Attributes:
        tensors: state tensors by ``key.parameter``.
        numbers: plain numbers of the state, by ``key.parameter``.
        groups: the settings of each parameter group (learning rate, weight decay, ...), without the parameters.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def capture(cls, model: nn.Module, optimizer: torch.optim.Optimizer) -> OptimizerState:
        """Copy the state of ``optimizer``, whose parameters are those of ``model``."""
        state = cls()
        for name, parameter in _named(model, optimizer):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    state.tensors[f"{key}.{name}"] = value.detach().clone()
                else:
                    state.numbers[f"{key}.{name}"] = copy.deepcopy(value)
        for group in optimizer.param_groups:
            settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
            state.groups.append(copy.deepcopy(settings))
        return state

    def fresh(self) -> OptimizerState:
        """The settings alone, of an optimizer that has not taken a step."""
        return replace(self, tensors={}, numbers={})

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, settings: bool = True) -> None:
        """Put copies back, in the memory layout and on the device of each parameter.

        Args:
            model, optimizer: the parameters of ``optimizer`` are those of ``model``.
            settings: put the settings of the groups back too; otherwise they stay as they are.

        Raises:
            ValueError: the state has moments of a parameter, or a number of groups, that the optimizer has not.
        """
        if settings and self.groups and len(self.groups) != len(optimizer.param_groups):
            raise ValueError(
                f"the state has {len(self.groups)} parameter groups; the optimizer has {len(optimizer.param_groups)}"
            )
        numbered = {name: number for number, (name, _) in enumerate(_named(model, optimizer))}
        parameters = dict(_named(model, optimizer))
        state: dict[int, dict[str, Any]] = {}
        for full_name, value in [*self.tensors.items(), *self.numbers.items()]:
            key, _, name = full_name.partition(".")
            if name not in numbered:
                raise ValueError(f"the state has moments of '{name}', but the optimizer has no such parameter")
            state.setdefault(numbered[name], {})[key] = _placed(value, parameters[name])
        groups = optimizer.state_dict()["param_groups"]
        for group, saved in zip(groups, self.groups if settings else [], strict=False):
            group.update(copy.deepcopy(saved))
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _named(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The parameters of an optimizer in the order in which torch numbers them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    number = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield names.get(parameter, f"parameter{number}"), parameter
            number += 1


def _placed(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    if value.shape == parameter.shape and value.dim() > 0:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.detach().clone()
