"""Masks for any optimizer of torch: after each of its steps, weights and moments outside the masks are zero again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from ..weights.names import Named, named_tensors, some, without_wrappers
from .masks import fitting_mask, in_memory_order, zero_pruned
from .optimizer_state import held_by, moments_of


class Masking:
    """Keeps masks in an optimizer that knows none; made by ``masked``, and removed by ``remove`` or a ``with`` block.

    Args:
        optimizers: those that take steps.
        named: parameters by all of their names.
        group: the ranks of a ``DistributedDataParallel`` whose masks are compared; None for none.

    Attributes:
        masks: parameter name -> ``torch.bool``, as they act; change them by ``set_masks``.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
        >>> with pc.pruning.masked(optimizer, {"weight": torch.tensor([[True, False]])}) as masking:
        ...     list(masking.masks)
        ['weight']
    """

    def __init__(self, optimizers: list[Optimizer], named: dict[str, Tensor], group: Any) -> None:
        self.masks: dict[str, Tensor] = {}
        self._named = named
        self._group = group
        self._masked: dict[Tensor, tuple[str, Tensor]] = {}
        self._optimizers = optimizers
        self._hooks = [
            handle
            for optimizer in optimizers
            for handle in (
                optimizer.register_step_post_hook(lambda stepped, *_: self._zero(stepped)),
                optimizer.register_load_state_dict_post_hook(self._zero),
            )
        ]

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Replace all masks, and set weights and moments outside them to zero at once.

        Args:
            masks: parameter name -> ``torch.bool`` of the parameter's shape. Two masks of one weight, by two names, prune
                what either prunes.

        Raises:
            ValueError: a name or a shape does not fit, no masked weight is one of the optimizer, or ranks differ.
            TypeError: a mask is not ``torch.bool``, or a weight is sharded or has no memory of its own.
        """
        chosen: dict[Tensor, tuple[str, Tensor]] = {}
        for name, given in masks.items():
            if name not in self._named:
                raise ValueError(
                    f"mask '{name}' names no parameter of the optimizer; expected names among {some(self._named)}"
                )
            parameter = self._named[name]
            mask = in_memory_order(fitting_mask(name, given, parameter), parameter)
            known = chosen.get(parameter)
            chosen[parameter] = (name, mask) if known is None else (known[0], known[1] & mask)
        trained = {p for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]}
        if chosen and not chosen.keys() & trained:
            raise ValueError(
                f"the optimizer trains none of the masked weights ({some(masks)}); make it anew from the parameters of this "
                "network, which is perhaps a copy"
            )
        _check_ranks(masks, self._group)
        self._masked = chosen
        self.masks = dict(chosen.values())
        zero_pruned((parameter, *named) for parameter, named in chosen.items())  # also of weights that are not trained
        for optimizer in self._optimizers:
            self._zero(optimizer)

    def remove(self) -> None:
        """From now on the optimizer trains all weights again."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Masking:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _zero(self, optimizer: Optimizer) -> None:
        items: list[tuple[Tensor | None, str, Tensor]] = []
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in self._masked:
                    name, mask = self._masked[parameter]
                    moments = moments_of(optimizer, parameter)
                    items += [(tensor, name, mask) for tensor in (parameter, *moments)]
        zero_pruned(items)


def masked(optimizer: Optimizer, masks: Mapping[str, Tensor], model: Named | None = None) -> Masking:
    """Keep masks in any optimizer of torch, where ``MaskedAdam`` and ``MaskedSGD`` are not what one uses.

    At once, after each step, and after ``load_state_dict``, weights outside the masks and what the optimizer remembers of
    them (every floating tensor of the weight's shape) are set to +0, in one native call for all tensors. Gradient
    accumulation, ``GradScaler``, schedules, parameter groups, closures and ``torch.compile`` go on as without it. A copy of
    the optimizer (``deepcopy``, pickle) has no hooks, so call ``masked`` for it too.

    Args:
        optimizer: of ``torch.optim``, or derived from it; an optimizer that holds another is masked with it.
        masks: parameter name -> ``torch.bool`` of the parameter's shape, True where a weight is kept. Names may lack the
            prefixes of DDP and ``torch.compile``.
        model: the network, or its names with parameters, for optimizers that were made without names
            (``model.parameters()``). Masked weights that the optimizer does not train are then zeroed too. Of a
            ``DistributedDataParallel``, all ranks must call this, and their masks are compared.

    Returns:
        A handle: ``set_masks`` for the next level of pruning, ``remove`` to end it. It need not be kept.

    Raises:
        ValueError: a mask fits no parameter, the names are not known, or masks differ between ranks.
        TypeError: it is no optimizer of torch, or one whose memory is not by weight (``LBFGS``); parameters are sharded
            (DTensor).

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.RMSprop(model.named_parameters(), lr=0.1)
        >>> handle = pc.pruning.masked(optimizer, {"weight": torch.tensor([[True, False]])})
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> (model.weight != 0).tolist()
        [[True, False]]
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; expected a torch.optim.Optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(
            "LBFGS remembers directions of all weights as one vector, which no mask fits; use another optimizer"
        )
    # Wrappers such as that of accelerate have no hooks themselves, and let the optimizer that they hold take the step.
    with_hooks = [o for o in (optimizer, *held_by(optimizer).values()) if hasattr(o, "_optimizer_step_post_hooks")]
    if not with_hooks:
        raise TypeError(f"the {type(optimizer).__name__} takes no hooks; give the optimizer of torch inside it")
    named = named_tensors(model) if model is not None else _names_of(with_hooks)
    parallel = isinstance(model, nn.parallel.DistributedDataParallel)
    masking = Masking(
        with_hooks, without_wrappers(named) | named, getattr(model, "process_group", None) if parallel else None
    )
    try:
        masking.set_masks(masks)
    except BaseException:
        masking.remove()
        raise
    return masking


def _names_of(optimizers: list[Optimizer]) -> dict[str, Tensor]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    if not all("param_names" in group for group in groups):
        raise ValueError(
            "the optimizer was made without names of its parameters; make it from model.named_parameters(), or give the "
            "model as the third argument"
        )
    return {name: p for group in groups for name, p in zip(group["param_names"], group["params"], strict=True)}


def _check_ranks(masks: Mapping[str, Tensor], group: Any) -> None:
    """Refuse masks that are not the same on all ranks, whose weights would drift apart; on all ranks alike."""
    if group is None:
        return
    mine = {name: hashlib.sha256(mask.cpu().contiguous().numpy().tobytes()).hexdigest() for name, mask in masks.items()}
    ranks: list[dict[str, str]] = [{} for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(ranks, mine, group)
    for rank, theirs in enumerate(ranks):
        for name in {**ranks[0], **theirs}:
            if ranks[0].get(name) != theirs.get(name):
                raise ValueError(
                    f"mask '{name}' differs between rank 0 and rank {rank}; prune the same weights with the same seed on all "
                    "ranks, or send the masks of one rank to the others"
                )
