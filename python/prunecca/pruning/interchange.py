"""Masks as other tools keep them: beside the weights, in a network or a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..storage.reparametrised import plain_weights
from ..storage.state_dicts import find_state
from ..storage.weights import read_checkpoint
from ..weights.names import some
from .masks import Masks, fitting_mask
from .packing import unpack


def masks_from(
    source: nn.Module | Mapping[str, Any] | str | os.PathLike[str], network: nn.Module | None = None
) -> Masks:
    """The masks that ``torch.nn.utils.prune``, a masking parametrisation or a study of prunecca has left.

    A weight of zero is not taken for a pruned one: only masks count.

    Args:
        source: a pruned network, its state_dict (also nested, and with the prefixes of DataParallel and
            ``torch.compile``), or a file: of safetensors or torch, whole or in shards, or ``masks.safetensors`` of a run
            directory. ``checkpoint.pt:ema`` names one of several networks.
        network: by whose names the masks are called; None takes the names of the source, without prefixes of wrappers.
            ``masks.safetensors`` needs it, for the shapes.

    Returns:
        Parameter name -> ``torch.bool`` of the parameter's shape, True where a weight is kept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there are no masks, or they do not fit the network; the sentence says what was found.

    Example:
        >>> import torch, prunecca as pc
        >>> from torch.nn.utils import prune
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = prune.custom_from_mask(layer, "weight", torch.tensor([[1, 0]]))
        >>> pc.pruning.masks_from(layer)
        {'weight': tensor([[ True, False]])}
    """
    if isinstance(source, nn.Module):
        source = source.state_dict()
    shapes = None
    if network is not None:
        plain, _ = plain_weights(network.state_dict())
        shapes = {name: value.shape if isinstance(value, torch.Tensor) else None for name, value in plain.items()}
    where = "the state_dict" if isinstance(source, Mapping) else str(source)
    checkpoint = None if isinstance(source, Mapping) else read_checkpoint(source)
    content = source if checkpoint is None else checkpoint.content
    if isinstance(content, Mapping) and _are(torch.uint8, content):
        if network is None:
            raise ValueError(f"{where} holds masks as bits, which have no shape; give the network too")
        return unpack(content, network)
    if isinstance(content, Mapping) and _are(torch.bool, content):
        return dict(content) if network is None else _fitting(content, network)
    state = find_state(content, where, shapes) if checkpoint is None else checkpoint.state(shapes)
    if not state.masks:
        raise ValueError(
            f"{where} holds no masks; expected weight_orig and weight_mask, as torch.nn.utils.prune keeps them "
            "before prune.remove"
        )
    return state.masks


def _fitting(masks: Mapping[str, torch.Tensor], network: nn.Module) -> Masks:
    parameters = dict(network.named_parameters())
    for name in masks:
        if name not in parameters:
            raise ValueError(f"mask '{name}' has no parameter of that name; expected one of {some(parameters)}")
    return {name: fitting_mask(name, mask, parameters[name]) for name, mask in masks.items()}


def _are(dtype: torch.dtype, content: Mapping[str, Any]) -> bool:
    return bool(content) and all(isinstance(item, torch.Tensor) and item.dtype == dtype for item in content.values())
