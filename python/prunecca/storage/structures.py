"""Values made of tensors, numbers, text, lists, tuples and dictionaries: copied whole, or taken apart for a file."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

_PLAIN = (bool, int, float, str, type(None))


def copied(value: Any) -> Any:
    """A copy that shares nothing with the original: tensors are detached and cloned, wherever they are in it."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copied(item) for item in value)
    return copy.deepcopy(value)


def taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """What JSON can hold of a value; its tensors are put into ``tensors``, under names that begin with ``name``.

    Raises:
        TypeError: it holds something else.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, list | tuple):
        parts = [taken_apart(item, f"{name}.{k}", tensors) for k, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": parts}
    if isinstance(value, dict) and all(isinstance(key, str | int) for key in value):
        return {"dict": [[key, taken_apart(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    raise TypeError(
        f"{name} is a {type(value).__name__}; only tensors, numbers, text, and lists, tuples and dictionaries of these can "
        "be stored, keep it elsewhere"
    )


def put_together(stored: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that ``taken_apart`` was given; the tensors it names are taken out of ``tensors``."""
    if not isinstance(stored, dict):
        return stored
    ((kind, content),) = stored.items()
    if kind == "tensor":
        return tensors.pop(content)
    if kind == "dict":
        return {key: put_together(item, tensors) for key, item in content}
    items = [put_together(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
