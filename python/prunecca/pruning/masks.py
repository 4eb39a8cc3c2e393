"""Masks: ``{parameter name: torch.bool tensor}``, True where a weight is kept.

One byte per weight in memory, one bit on disk (``packing``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from .. import _native
from .._arrays import native, resolved, same_memory, stream_of
from ..methods.channels import check_outputs_first, cut_channels
from ..methods.pooled import pooled_names
from ..methods.scopes import SCOPES as SCOPES  # part of this module's face
from ..methods.scopes import by_rows, cut_rows, groups
from ..weights.names import Named, first_names, named_tensors, some, under_first_names, without_wrappers
from ..weights.rates import rate_as_written, rates_by_pool
from .criteria import find_criterion, scores
from .threshold import RankedGroup, count_kept, prune_lowest

Masks = dict[str, Tensor]


class LayerCollapseWarning(UserWarning):
    """A layer has lost its last weight: nothing passes through it any more.

    Example:
        >>> import warnings, torch, prunecca as pc
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always", pc.pruning.LayerCollapseWarning)
        ...     masks = pc.pruning.prune({"weight": torch.ones(3)}, {"all": ["weight"]}, 1.0)
        >>> len(caught)
        1
    """


def prune(
    parameters: Named,
    pools: Mapping[str, Sequence[str]],
    rates: Any,
    previous: Mapping[str, Tensor] | None = None,
    *,
    criterion: str = "large_final",
    initial: Named | None = None,
    scope: str = "pool",
    alpha: float = 1.0,
    seed: int = 0,
) -> Masks:
    """Masks that prune ``floor(rate * survivors)`` more entries of each pool: those with the lowest scores.

    Ties are broken by the lowest flat (row-major) index, in the order in which the pool lists its parameters: the
    result depends on nothing but the values. -0 equals 0; denormals count as what they are. A tensor that has several
    names is one weight: it is pruned and counted once, and its mask stands under the first of them.

    Args:
        parameters: a model, or names with tensors (any floating dtype, any shape).
        pools: as from ``pools_by_type``.
        rates: the fraction of each pool's survivors to prune, in [0, 1], for all or by pool: a number of Python or NumPy,
            a tensor of one, a fraction, a decimal, or one of these as text. It is taken as the decimal it is written as:
            0.29 of 100 is 29, in float32 too; ``Fraction(1, 3)`` is a third.
        previous: the masks so far; what they prune stays pruned, and survivors are counted from them, never from the
            weights. Names outside the pools are carried over.
        criterion: a name of ``CRITERIA``; some need ``initial``.
        initial: the weights at initialisation.
        scope: ``"pool"`` ranks a pool's weights together, ``"layer"`` each module's weight and bias on their own,
            ``"global"`` all pools together (one rate), ``"row"`` each index of a tensor's first dimension on its own (a bias
            is one row), ``"channel"`` whole output channels: in each weight ``floor(rate * n)`` of the n that live, those whose
            scores have the lowest sum; its bias goes with them (see the documentation). N:M, such as ``"2:4"``, keeps the N of highest score of every M neighbours along the second
            dimension, the input channels, whatever the rate is; a pool of rate 0, and biases, it leaves as they are.
        alpha: of the criteria that weigh final against initial magnitudes.
        seed: of the ``random`` criterion.

    Returns:
        Parameter name -> ``torch.bool`` of the parameter's shape, True where a weight is kept.

    Raises:
        ValueError: a rate outside [0, 1], a NaN (naming the parameter), an unknown name, a mask that does not fit, pools
            that name no parameter at all, or a layer whose outputs are not along the first dimension, with a scope that
            goes by dimensions.
        TypeError: a rate is no number, parameters have no names, or pools are no lists of names.

    Warns:
        LayerCollapseWarning: a layer loses its last weight.

    Example:
        >>> import torch, prunecca as pc
        >>> pc.pruning.prune({"weight": torch.tensor([3.0, -1.0, 2.0, 0.5])}, {"all": ["weight"]}, 0.5)
        {'weight': tensor([ True, False,  True, False])}
    """
    final = dict(named_tensors(parameters))
    first = first_names(final)
    start = None if initial is None else under_first_names(named_tensors(initial), first)
    chosen = find_criterion(criterion)
    generator = torch.Generator().manual_seed(seed)
    pools = _check_pools(pools, first)
    pooled = [name for names in pools.values() for name in names]
    if isinstance(parameters, nn.Module):
        check_outputs_first(parameters, pooled, scope)
    final.update((name, resolved(final[name], f"parameter '{name}'")) for name in pooled)
    before = _under_first_names({n: fitting_mask(n, mask, final.get(n)) for n, mask in (previous or {}).items()}, first)
    by_pool = {pool: rate_as_written(rate, pool) for pool, rate in rates_by_pool(rates, pools).items()}
    together = [(names, rate) for names, rate in groups(pools, by_pool, scope) if names]
    ranked = []
    for names, _ in together:
        alive = [before[name] if name in before else torch.ones_like(final[name], dtype=torch.bool) for name in names]
        alive = [mask.contiguous() for mask in alive]
        masks = [torch.empty(mask.shape, dtype=torch.bool, device=mask.device) for mask in alive]
        ranked.append(RankedGroup(scores(chosen, names, final, start, alpha, generator), alive, masks))
    if by_rows(scope) or scope == "channel":
        nans = [_cut(group, chosen.signed, scope, named) for group, named in zip(ranked, together, strict=True)]
    else:
        nans = prune_lowest(ranked, chosen.signed, lambda group, survivors: math.floor(together[group][1] * survivors))
    after: Masks = {}
    for (names, _), pool, nan in zip(together, ranked, nans, strict=True):
        if nan >= 0:
            raise ValueError(f"parameter '{names[nan]}' has a NaN score; expected finite weights, check the training")
        _warn_of_collapse(names, pool.alive, pool.masks)
        after.update(zip(names, pool.masks, strict=True))
    return {name: after[name] for names in pools.values() for name in names} | {
        n: m for n, m in before.items() if n not in after
    }


def full_masks(parameters: Named, pools: Mapping[str, Sequence[str]]) -> Masks:
    """The trivial masks, which keep everything, for all pooled parameters.

    Args:
        parameters: a model, or names with tensors.
        pools: as from ``pools_by_type``.

    Returns:
        Parameter name -> ``torch.bool``, all True.

    Raises:
        ValueError: a pooled name does not exist, or is in two pools, or no name is pooled.

    Example:
        >>> import torch, prunecca as pc
        >>> pc.pruning.full_masks({"bias": torch.zeros(2)}, {"all": ["bias"]})
        {'bias': tensor([True, True])}
    """
    final = named_tensors(parameters)
    pooled = [name for names in _check_pools(pools, first_names(final)).values() for name in names]
    return {name: torch.ones_like(final[name], dtype=torch.bool) for name in pooled}


def apply_masks(parameters: Named, masks: Mapping[str, Tensor]) -> None:
    """Set pruned weights to exactly +0, in place.

    An average of the network (torch's ``AveragedModel``, an exponential moving average) remembers what was pruned: apply
    the masks to it too, once, whenever there are new ones. What averages zeros with zeros then stays zero.

    Args:
        parameters: a model, or names with tensors. Names may lack the ``module.`` or ``_orig_mod.`` of a wrapper.
        masks: parameter name -> ``torch.bool`` of the parameter's shape.

    Raises:
        ValueError: a mask without parameter, or of another shape.

    Example:
        >>> import torch, prunecca as pc
        >>> weight = torch.tensor([1.0, 2.0])
        >>> pc.pruning.apply_masks({"weight": weight}, {"weight": torch.tensor([True, False])})
        >>> weight
        tensor([1., 0.])
    """
    tensors = named_tensors(parameters)
    inside = without_wrappers(tensors)
    zero_pruned([(tensors.get(name, inside.get(name)), name, mask) for name, mask in masks.items()])


def density(masks: Mapping[str, Tensor]) -> float:
    """The fraction of all masked entries that is kept.

    Args:
        masks: parameter name -> ``torch.bool``.

    Returns:
        A fraction in [0, 1]; 1.0 where there are no entries.

    Example:
        >>> import torch, prunecca as pc
        >>> pc.pruning.density({"weight": torch.tensor([True, False, True, True])})
        0.75
    """
    fitting = [fitting_mask(name, mask, None) for name, mask in masks.items()]
    total = sum(mask.numel() for mask in fitting)
    return sum(count_kept(fitting)) / total if total else 1.0


def density_per_layer(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """The fraction kept of each parameter.

    Args:
        masks: parameter name -> ``torch.bool``.

    Returns:
        Parameter name -> fraction in [0, 1]; 1.0 for an empty one.

    Example:
        >>> import torch, prunecca as pc
        >>> pc.pruning.density_per_layer({"a": torch.tensor([True, False]), "b": torch.tensor([True])})
        {'a': 0.5, 'b': 1.0}
    """
    counts = count_kept([fitting_mask(name, mask, None) for name, mask in masks.items()])
    return {
        name: count / mask.numel() if mask.numel() else 1.0
        for (name, mask), count in zip(masks.items(), counts, strict=True)
    }


def fitting_mask(name: str, mask: Tensor, parameter: Tensor | None) -> Tensor:
    """The mask on the parameter's device, or an error that names it."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask '{name}' is {kind}; expected a tensor of dtype torch.bool")
    mask = resolved(mask, f"mask '{name}'")
    if parameter is None:
        return mask
    if mask.shape != parameter.shape:
        raise ValueError(
            f"mask '{name}' has shape {tuple(mask.shape)}; expected that of its parameter, {tuple(parameter.shape)}"
        )
    return mask.to(parameter.device)


def in_memory_order(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor``, or a copy of it, whose elements lie in memory in the order of ``like`` (channels_last, say)."""
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype, memory_format=torch.preserve_format).copy_(tensor)


def zero_pruned(items: Iterable[tuple[Tensor | None, str, Tensor]]) -> None:
    """Set entries outside each mask to +0 in place: (tensor, name for errors, mask), in one native call a device."""
    given, names, dense, masks = [], [], [], []
    for tensor, name, mask in items:
        if tensor is None:
            raise ValueError(f"mask '{name}' has no parameter of that name; expected masks of existing parameters")
        given.append(tensor)
        names.append(name)
        plain = resolved(tensor, f"parameter '{name}'").detach()
        dense.append(_without_gaps(plain))
        masks.append(in_memory_order(fitting_mask(name, mask, plain), dense[-1]))
    if not given:
        return
    together: dict[torch.device, list[int]] = {}
    for i, tensor in enumerate(dense):
        together.setdefault(tensor.device, []).append(i)
    threads = torch.get_num_threads()
    for numbers in together.values():
        arrays = [native(dense[i], f"parameter '{names[i]}'") for i in numbers]
        stream = stream_of(dense[numbers[0]])
        _native.masked_copy(arrays, arrays, _all([masks[i] for i in numbers]), threads=threads, stream=stream)
    with torch.no_grad():
        for tensor, filled in zip(given, dense, strict=True):
            if not same_memory(filled, tensor):
                tensor.copy_(filled)
    torch.autograd.graph.increment_version(given)


def _without_gaps(tensor: Tensor) -> Tensor:
    if tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride():
        return tensor
    return tensor.contiguous()


def _check_pools(pools: Mapping[str, Sequence[str]], first: Mapping[str, str]) -> dict[str, list[str]]:
    """The pools with every weight in one of them, once, under its first name."""
    pooled = pooled_names(pools)
    if not pooled:
        raise ValueError(
            "there is nothing to prune: no pool names a parameter; name those to be pruned, as {'all': ['0.weight']}"
        )
    for name in pooled:
        if name not in first:
            raise ValueError(f"pooled parameter '{name}' does not exist; expected names among {some(first)}")
    if len(set(pooled)) < len(pooled):
        twice = next(name for name in pooled if pooled.count(name) > 1)
        raise ValueError(f"parameter '{twice}' is pooled twice; expected every name in one pool, once")
    once = {pool: list(dict.fromkeys(first[name] for name in names)) for pool, names in pools.items()}
    pool_of: dict[str, str] = {}
    for pool, names in once.items():
        for name in names:
            if pool_of.setdefault(name, pool) != pool:
                raise ValueError(
                    f"parameter '{name}' has several names, in the pools '{pool_of[name]}' and '{pool}'; expected one pool"
                )
    return once


def _under_first_names(masks: Mapping[str, Tensor], first: Mapping[str, str]) -> Masks:
    """One mask for each weight: what any of its names prunes is pruned."""
    together: Masks = {}
    for name, mask in masks.items():
        known = first.get(name, name)
        together[known] = together[known] & mask if known in together else mask
    return together


def _cut(group: RankedGroup, signed: bool, scope: str, named: tuple[list[str], Fraction]) -> int:
    """Write the masks of a group, row by row or channel by channel; 0 where a survivor's score is NaN, otherwise -1."""
    names, rate = named
    found = [score if signed else score.abs() for score in group.scores]
    if scope == "channel":
        return cut_channels(names, found, group.alive, group.masks, rate)
    return -1 + int(cut_rows(found[0], group.alive[0], group.masks[0], scope, rate))


def _warn_of_collapse(names: list[str], before: list[Tensor], after: list[Tensor]) -> None:
    for name, mask, has in zip(names, before, count_kept(after), strict=True):
        if not has and "bias" not in name.rpartition(".")[2] and mask.any():  # bias, in_proj_bias, bias_hh_l0
            warnings.warn(
                f"parameter '{name}' has lost its last weight; prune it less, or leave it out of the pools",
                LayerCollapseWarning,
                stacklevel=3,
            )


def _all(tensors: list[Tensor]) -> list[_native.Array]:
    return [native(t) for t in tensors]
