"""Weights that a layer computes from other parameters in every forward pass, and the parameters that stand for them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm


def stand_ins(layer: str, module: nn.Module) -> tuple[dict[str, nn.Parameter], str]:
    """The parameters whose zeros are zeros of the layer's own weights, by the names of the weights.

    Args:
        layer: the module's name, for errors.
        module: its own parameters are looked at, and those of its parametrisations.

    Returns:
        The plain parameters, and originals of weights that keep their zeros, such as those of ``spectral_norm``; and how
        the other weights are computed, empty where there are none.

    Raises:
        ValueError: the layer is pruned by ``torch.nn.utils.prune``.
    """
    own = dict(module.named_parameters(recurse=False))
    buffers = dict(module.named_buffers(recurse=False))
    found: dict[str, nn.Parameter] = {}
    computed: list[str] = []
    for key, parameter in own.items():
        plain = key.removesuffix("_orig")
        if plain != key and f"{plain}_mask" in buffers:
            raise ValueError(
                f"layer '{layer}' is pruned by torch.nn.utils.prune already; make that permanent with "
                f"torch.nn.utils.prune.remove(module, '{plain}') before pruning it here"
            )
        if key.endswith("_g") and f"{key.removesuffix('_g')}_v" in own:
            computed.append("weight_norm")
        if plain != key and f"{plain}_u" in buffers:  # spectral_norm of old
            found[plain] = parameter
        else:
            found[key] = parameter
    chains: Any = getattr(module, "parametrizations", {}) if nn.utils.parametrize.is_parametrized(module) else {}
    for key, chain in chains.items():
        if _keeps_zeros(chain):
            found[key] = chain.original
        else:
            computed += [type(step).__name__.strip("_") for step in chain]
    return found, ", ".join(computed)


@torch.no_grad()
def _keeps_zeros(chain: Any) -> bool:
    """Whether a zero of the original is a zero of the weight, also where a whole row is gone, and the rest is finite.

    ``weight_norm`` divides by the norm of each row, zero by zero where a row is empty: its weights would be NaN.
    """
    original = getattr(chain, "original", None)
    if not isinstance(original, Tensor):  # several originals
        return False
    if original.is_meta:
        return all(isinstance(step, _SpectralNorm) for step in chain)
    trial = copy.deepcopy(chain).eval()  # whose buffers may change
    values = trial.original
    values[values == 0] = 1
    values.view(-1)[::2] = 0
    if len(values) > 1:
        values[0] = 0
    try:
        weight = trial()
    except (RuntimeError, ValueError):  # such as a matrix that has no inverse
        return False
    fits = isinstance(weight, Tensor) and weight.shape == values.shape and bool(weight.isfinite().all())
    return fits and not bool(weight[values == 0].any())
