"""Weights that pruning keeps apart from their masks, put together: the product that the network computes with."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_ORIGINAL = re.compile(r"(?P<module>.*\.|)parametrizations\.(?P<name>[^.]+)\.original")
_MASK = re.compile(r"\d+\.\w*mask")


def plain_weights(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Weights by their plain names, and the masks that were beside them.

    Args:
        tensors: with ``weight_orig`` and ``weight_mask``, as ``torch.nn.utils.prune`` keeps them, or with
            ``parametrizations.weight.original`` and ``parametrizations.weight.0.mask``, as a parametrisation does.
            What is neither stays as it is.

    Returns:
        The weights, masked; and name -> ``torch.bool`` of the weight's shape, True where it is kept.

    Raises:
        ValueError: a mask is not of zeros and ones, or does not fit its weight.
    """
    weights, masks = dict(tensors), dict[str, Tensor]()
    for name, original in tensors.items():
        plain, parts = _parts(name, tensors)
        if not parts or plain in tensors or not isinstance(original, Tensor):
            continue
        kept = functools.reduce(torch.logical_and, [_mask(part, tensors[part], name, original) for part in parts])
        for part in (name, *parts):
            del weights[part]
        weights[plain], masks[plain] = kept.to(original.dtype) * original, kept
    return weights, masks


def _parts(name: str, tensors: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The plain name of a weight that is kept apart, and the names of its masks; none where it is not."""
    if name.endswith("_orig"):
        plain = name.removesuffix("_orig")
        return plain, [f"{plain}_mask"] if f"{plain}_mask" in tensors else []
    found = _ORIGINAL.fullmatch(name)
    if found is None:
        return name, []
    beside = name.removesuffix("original")
    parts = [other for other in tensors if other.startswith(beside) and other != name]
    # Anything else beside it changes the weight in a way that only its code knows.
    known = all(_MASK.fullmatch(part.removeprefix(beside)) for part in parts)
    return found["module"] + found["name"], parts if known else []


def _mask(name: str, mask: object, of: str, weight: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"'{name}' holds other values than 0 and 1; expected the mask of '{of}'")
    try:
        return (mask != 0).expand(weight.shape).contiguous()
    except RuntimeError:
        raise ValueError(
            f"'{name}' has shape {tuple(mask.shape)}; expected that of '{of}', {tuple(weight.shape)}"
        ) from None
