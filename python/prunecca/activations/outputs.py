"""Which tensor stands for a layer that returns more, or something else, than one."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Pick = str | int | Callable[[Any], Any]
Output = Pick | Mapping[str, Pick] | None

_ADVICE = {  # what makes a floating point matrix of a tensor that is none
    "complex": "output=lambda x: torch.view_as_real(x).flatten(-2), or output=torch.abs",
    "quantised": "output=lambda x: x.dequantize()",
    "sparse": "output=lambda x: x.to_dense()",
    "nested": "output=lambda x: x.values()",
}


def first_tensor(value: Any) -> Tensor | None:
    """The tensor that stands for what a module returned; None if there is none.

    A tensor itself, the data of a PackedSequence, ``last_hidden_state`` of a mapping that has one, or else the first
    tensor of a tuple, list or mapping (poolings with indices, recurrent layers), nested ones last.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, PackedSequence):
        return value.data
    if isinstance(value, Mapping):
        items = [value["last_hidden_state"]] if "last_hidden_state" in value else list(value.values())
    elif isinstance(value, tuple | list):
        items = list(value)
    else:
        return None
    plain = next((item for item in items if isinstance(item, Tensor)), None)
    if plain is not None:
        return plain
    return next((found for found in map(first_tensor, items) if found is not None), None)


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The tensor that a layer is called with, also by name.

    Raises:
        TypeError: there is none.
    """
    found = first_tensor((*args, *kwargs.values()))
    if found is None:
        raise TypeError("a layer is called without a tensor, which prunecca cannot follow; leave it out")
    return found


def picked(result: Any, output: Output, layer: str, label: str) -> Tensor:
    """The tensor of a layer's result that ``output`` names, or the first; of a dtype that can be compared.

    Args:
        result: what the layer returned.
        output: a name, a position, a function of the result, or these by globs of layer names.
        layer: its name.
        label: what error messages call the model.

    Raises:
        TypeError: no tensor, or one that is not of floating point numbers.
        ValueError: a name or a position that the result does not have.
    """
    where = f"layer {layer!r} of {label}"
    pick = output
    if isinstance(output, Mapping):
        pick = next((own for glob, own in output.items() if fnmatch.fnmatchcase(layer, glob)), None)
    chosen = result if pick is None else _picked(result, pick, where)
    tensor = first_tensor(chosen)
    if tensor is None:
        raise TypeError(
            f"{where} gives a {type(chosen).__name__}; expected a tensor, "
            "which output= can pick: a name, an index or a function of what the layer gives"
        )
    kind = _foreign(tensor)
    if kind is not None or not tensor.dtype.is_floating_point:
        what = f"a {kind} tensor" if kind in ("sparse", "nested") else f"{kind or 'a tensor of'} {tensor.dtype}"
        advice = _ADVICE.get(kind or "", "output=lambda x: x.float()")
        raise TypeError(f"{where} gives {what}; expected floating point numbers: leave it out, or use {advice}")
    return tensor


def _picked(result: Any, pick: Any, where: str) -> Any:
    if callable(pick):
        return pick(result)
    if isinstance(result, Tensor):
        return result  # layers that give a single tensor are taken beside those that give several
    if isinstance(pick, str):
        named = dict(result) if isinstance(result, Mapping) else None
        if named is None:
            return _attribute(result, pick, where)
        if pick not in named:
            raise ValueError(f"{where} gives {', '.join(map(repr, named))}; expected output={pick!r} to be one of them")
        return named[pick]
    if isinstance(pick, bool) or not isinstance(pick, int):
        raise TypeError(f"output is {pick!r}; expected a name, an index, a function, or these by layer")
    items = list(result.values()) if isinstance(result, Mapping) else result
    if not isinstance(items, tuple | list):
        raise TypeError(f"{where} gives a {type(result).__name__}; expected a tuple or mapping for output={pick}")
    if not -len(items) <= pick < len(items):
        raise ValueError(
            f"{where} gives {len(items)} outputs; expected output={pick} to be one of 0 to {len(items) - 1}"
        )
    return items[pick]


def _attribute(result: Any, name: str, where: str) -> Any:
    if not hasattr(result, name):
        raise ValueError(
            f"{where} gives a {type(result).__name__} without {name!r}; expected output= to be an index or a function"
        )
    return getattr(result, name)


def _foreign(tensor: Tensor) -> str | None:
    if tensor.is_complex():
        return "complex"
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_nested:
        return "nested"
    return None if tensor.layout == torch.strided else "sparse"
