"""What a batch becomes when a model is called: positional and keyword arguments of its forward."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

_MASK = "attention_mask"
_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ADVICE = "or forward=lambda model, batch: ..."

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def arguments(model: nn.Module, content: Any, masked: bool = False) -> Arguments:
    """How a model is called with a batch.

    A mapping (also the first element of a tuple, and the fields of a dataclass or of a named tuple whose first field is a
    parameter) is passed as keywords; keys that the forward does not take are dropped, unless it takes any. Of a tuple or
    list, a forward with several parameters without defaults gets as many elements; any other gets the first alone, and the
    second as its ``attention_mask`` where that is ``masked``. A forward with keywords alone gets them by those names.

    Args:
        model: whose ``forward`` is looked at.
        content: one batch of a loader.
        masked: the second element is the mask of the first.

    Raises:
        TypeError: the forward needs inputs that the batch does not have.
    """
    parameters = _parameters(model)
    keywords = _as_keywords(content, parameters)
    if keywords is not None:
        return _named(model, keywords, parameters)
    if isinstance(content, tuple | list) and not isinstance(content, PackedSequence) and content:
        needed = [p for p in parameters if p.default is p.empty and p.kind in (*_POSITIONAL, *_KEYWORD)]
        several = len(needed) > 1
        nested = isinstance(content[0], tuple | list) and not isinstance(content[0], PackedSequence)
        values = list(content[0] if several and nested else content)
        if not several and masked and any(p.name == _MASK and p.kind in _KEYWORD for p in parameters):
            args, kwargs = _in_order(model, values[:1], parameters)
            return args, {**kwargs, _MASK: values[1]}
        return _in_order(model, values[: max(1, len(needed))], parameters)
    return _in_order(model, [content], parameters)


def is_mask_of(first: Any, second: Any) -> bool:
    """Whether a tensor of zeros and ones marks the padding of another: one same number wherever it is zero."""
    tensors = isinstance(first, Tensor) and isinstance(second, Tensor)
    if not tensors or first.ndim != 2 or first.shape != second.shape or not first.numel():
        return False
    if first.is_floating_point() or second.is_floating_point() or first.is_complex() or second.is_complex():
        return False
    marked = second != 0
    if not bool(((second == 0) | (second == 1)).all()) or not bool(marked.any(1).all()):
        return False
    padding = first[~marked]
    return not padding.numel() or bool((padding == padding[0]).all())


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # a forward that is no Python function
        return [inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)]


def _as_keywords(content: Any, parameters: list[inspect.Parameter]) -> dict[str, Any] | None:
    if isinstance(content, Mapping):
        return dict(content)
    if is_dataclass(content) and not isinstance(content, type):
        return {field.name: getattr(content, field.name) for field in fields(content)}
    if isinstance(content, PackedSequence) or not isinstance(content, tuple | list) or not content:
        return None
    names = getattr(content, "_fields", ())  # a named tuple's
    if names and names[0] in {p.name for p in parameters if p.kind in _KEYWORD}:
        return dict(zip(names, content, strict=True))
    return dict(content[0]) if isinstance(content[0], Mapping) else None


def _named(model: nn.Module, given: dict[str, Any], parameters: list[inspect.Parameter]) -> Arguments:
    taken = {p.name: given[p.name] for p in parameters if p.name in given and p.kind in (*_POSITIONAL, *_KEYWORD)}
    missing = [p.name for p in parameters if p.kind in (*_POSITIONAL, *_KEYWORD) and p.default is p.empty]
    missing = [name for name in missing if name not in taken]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        # Texts and numbers of a data set go nowhere by accident.
        taken |= {name: value for name, value in given.items() if name not in taken and isinstance(value, Tensor)}
    if missing or not taken:
        raise TypeError(
            f"{type(model).__name__} takes {_listed(parameters)} but a batch has the keys {', '.join(map(repr, given))}; "
            f"expected keys that it takes, {_ADVICE}"
        )
    first = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    args = tuple(taken.pop(name) for name in first if name in taken)
    return args, {str(name): value for name, value in taken.items()}


def _in_order(model: nn.Module, values: list[Any], parameters: list[inspect.Parameter]) -> Arguments:
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    needed_keywords = [p for p in keywords if p.default is p.empty]
    if not positional and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        args, names = [], [p.name for p in needed_keywords or keywords[:1]]
    else:
        count = max(1, sum(p.default is p.empty for p in positional))
        args, names = values[:count], [p.name for p in needed_keywords]
        values = values[count:]
        if len(args) < count:
            names = [""]  # inputs are missing
    if len(values) < len(names) or not (args or names):
        raise TypeError(
            f"{type(model).__name__} takes {_listed(parameters)} but a batch gives {len(args) + len(values)} "
            f"input{'s' * (len(args) + len(values) != 1)}; expected tuples of its inputs, mappings with these keys, {_ADVICE}"
        )
    return tuple(args), dict(zip(names, values, strict=False))


def _listed(parameters: list[inspect.Parameter]) -> str:
    named = [p for p in parameters if p.kind in (*_POSITIONAL, *_KEYWORD)]
    needed = [p.name for p in named if p.default is p.empty]
    return ", ".join(needed or [p.name for p in named[:5]]) or "no inputs"
