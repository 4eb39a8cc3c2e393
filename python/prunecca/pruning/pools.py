"""Which parameters may be pruned, together with which others, and at what rate."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from numbers import Rational
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from .names import some

Pools = dict[str, list[str]]

# Each scales or shifts a channel: to prune one is to prune the channel.
_NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_ALIKE = 0.5  # relative distance below which frozen weights are an average of others; independent ones differ by 1.4


class UnpooledWarning(UserWarning):
    """Weights are in no pool: nothing of them will be pruned.

    Example:
        >>> import warnings, torch, prunecca as pc
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always", pc.pruning.UnpooledWarning)
        ...     pools = pc.pruning.pools_by_type(torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2)))
        >>> str(caught[0].message)[:23]
        "no pool takes '0' (0.we"
    """


def pools_by_type(model: nn.Module, *, include_output: bool = False) -> Pools:
    """The paper's two pools, by module type: a BatchNorm is never in one, whatever its name.

    Weights **and** biases of all convolutions form one pool, those of all linear layers the other
    (Ansuini et al. 2020, section 4.3). Layers whose weight is computed from other parameters (``weight_norm``,
    ``spectral_norm``, ``orthogonal``, ...) are in neither: a zero in those need not be one in the weight. To prune them,
    make the weight plain first (``torch.nn.utils.parametrize.remove_parametrizations``), or make pools of your own.

    Args:
        model: any module.
        include_output: also the output layer, taken to be the last convolution or linear layer in the order of
            ``model.modules()``.

    Returns:
        ``{"conv": [...], "fc": [...]}``, names as in ``model.named_parameters()``. A parameter shared by several modules
        is listed once.

    Raises:
        ValueError: a lazy layer has not seen data yet, or a layer is pruned by ``torch.nn.utils.prune``.

    Warns:
        UnpooledWarning: there are matrices of weights in neither pool, other than those of the output layer: parametrised
            layers, recurrent and attention layers, embeddings, and averages of the network that are part of it.

    Example:
        >>> import prunecca as pc
        >>> pc.pruning.pools_by_type(pc.models.build("digits4"))["fc"]
        ['fc1.0.weight', 'fc1.0.bias']
    """
    skipped = _averages(model)
    modules = [(name, module) for name, module in model.named_modules() if not _inside(name, skipped)]
    found = [(name, module) for name, module in modules if isinstance(module, _ConvNd | nn.Linear)]
    kept = found if include_output else found[:-1]
    left_out = {id(p) for _, module in found[len(kept) :] for p in module.parameters()}
    computed = {name: how for name, module in kept if (how := _computed_by(name, module))}
    pool_of = {
        id(p): "conv" if isinstance(module, _ConvNd) else "fc"
        for name, module in kept
        if name not in computed
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
    _warn_of_unpooled(modules, computed, skipped, pool_of.keys() | left_out)
    return pools


def rate_as_written(rate: Any, pool: str) -> Fraction:
    """The exact rate: the double nearest to 0.29 lies below it, and rounding down would then lose one entry.

    Args:
        rate: a Python or NumPy number, a fraction, a decimal, a tensor of one number, or one of these as text.
        pool: for errors.

    Raises:
        ValueError: it does not lie in [0, 1].
        TypeError: it is no number.
    """
    given = rate
    if isinstance(rate, Tensor | np.ndarray) and rate.ndim == 0:
        rate = _shortest(rate) if isinstance(rate, Tensor) else rate[()]
    try:
        if isinstance(rate, bool | np.bool_ | complex | np.complexfloating):
            raise TypeError
        if isinstance(rate, Rational | Decimal):  # Python's integers too
            exact = Fraction(rate)
        elif isinstance(rate, float) and type(rate) is not np.float64:
            exact = Fraction(float.__repr__(rate))
        elif isinstance(rate, str | np.integer | np.floating):
            exact = Fraction(str(rate).strip())
        else:
            raise TypeError
    except (TypeError, ZeroDivisionError) as error:
        raise TypeError(
            f"pruning rate of pool '{pool}' is {given!r}; expected a number in [0, 1], such as 0.2 or Fraction(1, 3)"
        ) from error
    except (ValueError, OverflowError) as error:  # nan, inf, other text
        raise ValueError(f"pruning rate of pool '{pool}' is {given}; expected a fraction in [0, 1]") from error
    if not 0 <= exact <= 1:
        raise ValueError(f"pruning rate of pool '{pool}' is {given}; expected a fraction in [0, 1]")
    return exact


def rates_by_pool(rates: Any, pools: Mapping[str, Any]) -> dict[str, Any]:
    """The rate of each pool, as given: one for all, or a mapping.

    Raises:
        ValueError: a pool has no rate, or a rate no pool.
    """
    by_pool = dict(rates) if isinstance(rates, Mapping) else dict.fromkeys(pools, rates)
    for pool in by_pool.keys() ^ pools.keys():
        what = "no rate" if pool in pools else "a rate, but does not exist"
        shown = ", ".join(map(str, pools))
        raise ValueError(f"pool '{pool}' has {what}; expected one rate for each of the pools {shown}")
    return by_pool


def _shortest(rate: Tensor) -> Any:
    """The number of a tensor, with no more digits than tell it from its neighbours in that dtype."""
    number = rate.detach().cpu()
    if not number.is_floating_point() or number.dtype == torch.float64:
        return number.item()
    value = number.item()
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if bool(torch.tensor(float(text), dtype=number.dtype) == number):
            return text
    return value


def _computed_by(name: str, module: nn.Module) -> str:
    """What the weight of a layer is computed by in every forward pass; empty for a plain one."""
    own = dict(module.named_parameters(recurse=False))
    if any(f"{key.removesuffix('_mask')}_orig" in own for key, _ in module.named_buffers(recurse=False)):
        raise ValueError(
            f"layer '{name}' is pruned by torch.nn.utils.prune already; make that permanent with "
            f"torch.nn.utils.prune.remove(module, 'weight') before pruning it here"
        )
    if is_parametrized(module, "weight"):
        chain: Any = module.parametrizations
        return ", ".join(type(step).__name__.strip("_") for step in chain["weight"])
    if "weight" in own or not own:
        return ""
    return "weight_norm" if "weight_g" in own else "spectral_norm" if "weight_orig" in own else "other parameters"


def _averages(model: nn.Module) -> list[str]:
    """Submodules that are running averages of the network: torch's ``AveragedModel``, or a frozen copy of another."""
    shapes: dict[Any, list[nn.Module]] = {}
    frozen: list[tuple[str, nn.Module, Any]] = []
    found: list[str] = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if name and isinstance(module, torch.optim.swa_utils.AveragedModel):
            found.append(name)
        if not parameters or any(isinstance(p, nn.UninitializedParameter) for p in parameters):
            continue
        shape = (type(module), tuple(p.shape for p in parameters))
        if all(p.requires_grad for p in parameters):
            shapes.setdefault(shape, []).append(module)
        elif name and not any(p.requires_grad for p in parameters):
            frozen.append((name, module, shape))
    for name, module, shape in frozen:
        if not _inside(name, found) and any(_alike(module, other) for other in shapes.get(shape, [])):
            found.append(name)
    return found


@torch.no_grad()
def _alike(module: nn.Module, other: nn.Module) -> bool:
    """Whether all matrices of weights are about the same."""
    pairs = [(a.float(), b.to(a.device).float()) for a, b in zip(module.parameters(), other.parameters(), strict=True)]
    matrices = [(a, b) for a, b in pairs if a.dim() > 1]
    return bool(matrices) and all(float((a - b).norm()) <= _ALIKE * float(b.norm()) for a, b in matrices)


def _inside(name: str, outer: list[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in outer)


def _warn_of_unpooled(
    modules: list[tuple[str, nn.Module]], computed: Mapping[str, str], averages: list[str], known: set[int]
) -> None:
    reasons = [f"{name!r} (its weight is computed by {how})" for name, how in computed.items()]
    for name, module in modules:
        if isinstance(module, _NORMALISATIONS) or _inside(name, list(computed)):
            continue
        own = [key for key, p in module.named_parameters(recurse=False) if id(p) not in known and _is_matrix(p)]
        if own:
            shown = ", ".join(f"{name}.{key}".lstrip(".") for key in own)
            reasons.append(f"{name!r} ({shown})")
    reasons += [f"{name!r} (an average of the network; mask it with apply_masks)" for name in averages]
    if reasons:
        warnings.warn(
            f"no pool takes {some(reasons)}; they stay unpruned unless you name their parameters in pools of your own",
            UnpooledWarning,
            stacklevel=3,
        )


def _is_matrix(parameter: Tensor) -> bool:
    return not isinstance(parameter, nn.UninitializedParameter) and parameter.dim() > 1 and parameter.numel() > 1
