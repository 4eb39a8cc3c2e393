"""Names of weights. One tensor may have several, shared by two modules: it is one weight, under its first name."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from .._arrays import memory_of
from ..storage.structures import copied

Named = nn.Module | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]
Value = TypeVar("Value")

_WRAPPED = re.compile(r"(?:(?:module|_orig_mod)\.)+")  # DataParallel, AveragedModel, torch.compile, ...


def named_tensors(parameters: Named) -> dict[str, Tensor]:
    """Every name with its tensor, of a model, a mapping, or pairs; a shared tensor under each of its names.

    Raises:
        TypeError: these are no names with tensors.
    """
    if isinstance(parameters, nn.Module):
        return dict(parameters.named_parameters(remove_duplicate=False))
    pairs = list(parameters.items()) if isinstance(parameters, Mapping) else list(parameters)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            kind = "a tensor without a name" if isinstance(pair, Tensor) else repr(pair)
            raise TypeError(
                f"parameters hold {kind}; expected a model, or names with tensors as model.named_parameters()"
            )
    return dict(pairs)


def first_names(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Every name with the first name of the same tensor; values that are no tensors go by their own."""
    first: dict[Hashable, str] = {}
    return {name: first.setdefault(_memory(name, value), name) for name, value in tensors.items()}


def under_first_names(values: Mapping[str, Value], first: Mapping[str, str]) -> dict[str, Value]:
    """Values by the first name of their weight; what stands under that name itself counts before the others."""
    found = {first.get(name, name): value for name, value in values.items()}
    return found | {name: value for name, value in values.items() if first.get(name, name) == name}


def same_names(*states: Mapping[str, Any]) -> dict[str, str]:
    """Every name with the first name of its weight; names that are one weight in any of the states are in all."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.setdefault(name, name) != name:
            name = root[name]
        return name

    for state in states:
        for name, earlier in first_names(state).items():
            root[find(name)] = find(earlier)
    return {name: find(name) for name in list(root)}


def copies_of(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of tensors, and of whatever else a state may hold; a tensor that has two names has one copy."""
    first = first_names(tensors)
    copies = {name: copied(tensors[name]) for name in first.values()}
    return {name: copies[first[name]] for name in tensors}


def without_wrappers(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The same by the names they have inside ``DataParallel``, ``AveragedModel``, ``torch.compile`` and the like."""
    return {name[match.end() :] if (match := _WRAPPED.match(name)) else name: value for name, value in tensors.items()}


def some(names: Iterable[str]) -> str:
    """The first few names, for an error."""
    shown = list(names)
    return ", ".join(map(str, shown[:6])) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def _memory(name: str, value: Any) -> Hashable:
    """What two names of the same tensor have in common; the tensors of a ``state_dict`` are new views each time."""
    if not isinstance(value, Tensor):
        return name
    return memory_of(value)
