"""Which parameters may be pruned, and together with which others."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

Pools = dict[str, list[str]]


def pools_by_type(model: nn.Module, *, include_output: bool = False) -> Pools:
    """The paper's two pools, by module type: a BatchNorm is never in one, whatever its name.

    Weights **and** biases of all convolutions form one pool, those of all linear layers the other
    (Ansuini et al. 2020, section 4.3).

    Args:
        model: any module.
        include_output: also the output layer, taken to be the last convolution or linear layer in the order of
            ``model.modules()``.

    Returns:
        ``{"conv": [...], "fc": [...]}``, names as in ``model.named_parameters()``. A parameter shared by several modules
        is listed once.

    Raises:
        ValueError: a lazy layer has not seen data yet.

    Example:
        >>> import prunecca as pc
        >>> pc.pruning.pools_by_type(pc.models.build("digits4"))["fc"]
        ['fc1.0.weight', 'fc1.0.bias']
    """
    layers = [module for module in model.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    kept = layers if include_output else layers[:-1]
    left_out = {id(p) for module in layers[len(kept) :] for p in module.parameters(recurse=False)}
    pool_of = {
        id(p): "conv" if isinstance(module, _ConvNd) else "fc"
        for module in kept
        for p in module.parameters(recurse=False)
        if id(p) not in left_out
    }
    pools: Pools = {"conv": [], "fc": []}
    for name, parameter in model.named_parameters():
        if id(parameter) not in pool_of:
            continue
        if isinstance(parameter, nn.UninitializedParameter):
            raise ValueError(f"parameter '{name}' has no shape yet; run one batch through the model before pruning it")
        pools[pool_of[id(parameter)]].append(name)
    return pools
