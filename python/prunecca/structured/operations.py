"""Multiply-adds of the layers of a network in a forward pass."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from ..activations.inputs import Batch
from ..activations.outputs import first_input
from .layers import all_layers


def operations(model: nn.Module, batch: Batch) -> Counter[Any]:
    """The multiply-adds of each convolution and linear layer for a batch, in all of its calls; biases count nothing."""
    counts: Counter[Any] = Counter()

    def count(layer: Any, args: tuple[Any, ...], kwargs: Any, output: Tensor) -> None:
        positions = output
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):  # each position that goes in is multiplied
            positions = first_input(args, kwargs)
        width = layer.weight.shape[0]
        counts[layer] += positions.numel() // width * layer.weight.numel()

    handles = [layer.register_forward_hook(count, with_kwargs=True) for layer in all_layers(model).values()]
    try:
        with torch.no_grad():
            batch.private(None).call(model)
    finally:
        for handle in handles:
            handle.remove()
    return counts
