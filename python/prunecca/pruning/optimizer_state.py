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
from torch.optim import Optimizer

from ..storage.structures import copied
from .masked_optimizer import MaskedOptimizer

_COUNTS = (
    "step",
    "mu_product",
    "eta",
    "mu",
)  # of a parameter as a whole: numbers, as the moments of a single number are


@dataclass(frozen=True)
class OptimizerState:
    """Copies of everything that an optimizer remembers.

    Attributes:
        tensors: state tensors by ``key.parameter``.
        numbers: the rest of the state, by ``key.parameter``: numbers, or lists and dictionaries with tensors in them.
        groups: the settings of each parameter group (learning rate, weight decay, ...), without the parameters.
        others: what belongs to no parameter, by its key in ``optimizer.state``; and further parts of its ``state_dict``.
        inner: the states of optimizers that this one holds, as sharpness-aware minimisation does, by attribute.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    inner: dict[str, OptimizerState] = field(default_factory=dict)

    @classmethod
    def capture(cls, model: nn.Module, optimizer: Optimizer) -> OptimizerState:
        """Copy the state of ``optimizer``, whose parameters are those of ``model``.

        Raises:
            TypeError: it is no torch optimizer, or keeps its state in a form of its own.
        """
        parts = _parts(optimizer)
        state = cls()
        for name, parameter in _named(model, optimizer):
            for key, value in optimizer.state.get(parameter, {}).items():
                kept = state.tensors if isinstance(value, Tensor) else state.numbers
                kept[f"{key}.{name}"] = copied(value)
        for group in optimizer.param_groups:
            settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
            state.groups.append(copy.deepcopy(settings))
        shared: dict[str, Any] = {str(k): copied(v) for k, v in optimizer.state.items() if not isinstance(k, Tensor)}
        state.others.update({part: kept for part, kept in {"state": shared, "parts": copied(parts)}.items() if kept})
        state.inner.update({name: cls.capture(model, held) for name, held in held_by(optimizer).items()})
        return state

    def fresh(self) -> OptimizerState:
        """The settings alone, of an optimizer that has not taken a step."""
        inner = {name: state.fresh() for name, state in self.inner.items()}
        return replace(self, tensors={}, numbers={}, others={}, inner=inner)

    def restore(self, model: nn.Module, optimizer: Optimizer, *, settings: bool = True) -> None:
        """Put copies back, in the memory layout and on the device of each parameter.

        Args:
            model, optimizer: the parameters of ``optimizer`` are those of ``model``.
            settings: put the settings of the groups back too; otherwise they stay as they are.

        Raises:
            ValueError: the state has moments of a parameter, a number of groups, or an inner optimizer, that the
                optimizer has not.
        """
        _parts(optimizer)
        if settings and self.groups and len(self.groups) != len(optimizer.param_groups):
            raise ValueError(
                f"the state has {len(self.groups)} parameter groups; the optimizer has {len(optimizer.param_groups)}"
            )
        held = held_by(optimizer)
        for name in self.inner.keys() - held.keys():
            raise ValueError(f"the state is of an optimizer that holds another as '{name}'; this one holds none")
        numbered = {name: number for number, (name, _) in enumerate(_named(model, optimizer))}
        parameters = dict(_named(model, optimizer))
        state: dict[Any, dict[str, Any]] = {}
        for full_name, value in [*self.tensors.items(), *self.numbers.items()]:
            key, name = _key_and_name(full_name, parameters)
            state.setdefault(numbered[name], {})[key] = _placed(value, parameters[name])
        groups = optimizer.state_dict()["param_groups"]
        for group, saved in zip(groups, self.groups if settings else [], strict=False):
            group.update(copy.deepcopy(saved))
        shared = [inner for inner in held.values() if inner.param_groups is optimizer.param_groups]
        others = {part: copied(kept) for part, kept in self.others.items()}
        optimizer.load_state_dict(
            {"state": state | others.get("state", {}), "param_groups": groups} | others.get("parts", {})
        )
        if not isinstance(optimizer, MaskedOptimizer):  # which knows its dtypes
            # torch has rounded all to the dtype of the weight: codes, and moments that are wider.
            for name, number in numbered.items():
                loaded = optimizer.state.get(parameters[name], {})
                for key, value in state.get(number, {}).items():
                    if key in loaded:
                        loaded[key] = _with_dtype_of(value, loaded[key])
        for name, kept in self.inner.items():
            kept.restore(model, held[name], settings=settings)
        for inner in shared:  # a schedule that changes the one's rate changes the other's, as before
            inner.param_groups = optimizer.param_groups


def held_by(optimizer: Optimizer) -> dict[str, Optimizer]:
    """The optimizers that an optimizer holds, by attribute."""
    return {name: value for name, value in vars(optimizer).items() if isinstance(value, Optimizer)}


def moments_of(optimizer: Optimizer, parameter: Tensor) -> list[Tensor]:
    """What an optimizer remembers of each entry of a parameter, as tensors of its shape.

    Factored moments belong to rows and columns, counts to tensors, and the codes of quantised ones are no numbers.
    """
    state = optimizer.state.get(parameter, {})
    shaped = {key: v for key, v in state.items() if isinstance(v, Tensor) and v.shape == parameter.shape}
    return [v for key, v in shaped.items() if v.is_floating_point() and (v.dim() or key not in _COUNTS)]


def _parts(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer's ``state_dict`` has besides the parts that all have."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; expected a torch.optim.Optimizer")
    parts = optimizer.state_dict()
    if not parts.keys() >= {"state", "param_groups"}:
        raise TypeError(
            f"the state_dict of the {type(optimizer).__name__} has the parts {', '.join(map(str, parts))}; expected 'state' "
            "and 'param_groups' as of torch's optimizers, so capture the network without the optimizer"
        )
    return {part: value for part, value in parts.items() if part not in ("state", "param_groups")}


def _key_and_name(full_name: str, parameters: dict[str, Tensor]) -> tuple[str, str]:
    """``exp_avg`` and ``conv1.weight`` of ``exp_avg.conv1.weight``; a key may have dots of its own."""
    pieces = full_name.split(".")
    for end in range(1, len(pieces)):
        if ".".join(pieces[end:]) in parameters:
            return ".".join(pieces[:end]), ".".join(pieces[end:])
    name = full_name.partition(".")[2]
    raise ValueError(f"the state has moments of '{name}', but the optimizer has no such parameter")


def _named(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The parameters of an optimizer in the order in which torch numbers them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    number = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield names.get(parameter, f"parameter{number}"), parameter
            number += 1


def _placed(value: Any, parameter: Tensor) -> Any:
    if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return copied(value)


def _with_dtype_of(saved: Any, loaded: Any) -> Any:
    """What was loaded, where it has the dtype that was saved; otherwise what was saved, on the device of the former."""
    if isinstance(saved, Tensor) and isinstance(loaded, Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(saved, dict) and isinstance(loaded, dict):
        return {key: _with_dtype_of(value, loaded.get(key)) for key, value in saved.items()}
    if isinstance(saved, list | tuple) and isinstance(loaded, list | tuple):
        return type(saved)(_with_dtype_of(a, b) for a, b in zip(saved, loaded, strict=True))
    return loaded
