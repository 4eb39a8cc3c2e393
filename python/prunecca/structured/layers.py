"""Which layers have output channels that can be scored and cut: convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..methods.pooled import pooled_names
from ..weights.pools import pools_by_type

Layers = dict[str, Any]  # name of the weight -> convolution or linear layer


def channel_layers(model: nn.Module, pools: Mapping[str, Sequence[str]] | None) -> Layers:
    """The convolutions and linear layers whose weights the pools name, by the name of the weight.

    Raises:
        ValueError: there is none.
    """
    pools = pools_by_type(model) if pools is None else pools
    pooled_names(pools)
    known = all_layers(model)
    found = {name: known[name] for names in pools.values() for name in names if name in known}
    if not found:
        raise ValueError(
            "no pool names the weight of a convolution or linear layer; expected one at least, such as "
            f"{{'all': ['{next(iter(known), '0.weight')}']}}"
        )
    return found


def all_layers(model: nn.Module) -> Layers:
    """Every convolution and linear layer that has a weight of its own, by the name of the weight."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    modules = {n: m for n, m in model.named_modules() if isinstance(m, kinds) and "weight" in m._parameters}
    return {f"{name}.weight".lstrip("."): module for name, module in modules.items()}


def by_channel(layer: Any) -> Tensor:
    """The weight of a layer with its output channels along the first dimension."""
    weight: Tensor = layer.weight.detach()
    if not isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return weight
    grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1)
