"""Rewinding: the whole state at the end of an epoch, kept as copies and put back bit by bit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .masked_optimizer import MaskedOptimizer
from .masks import apply_masks, zero_pruned

OPTIMIZER_REWINDS = ("restore", "fresh")


class Stateful(Protocol):
    """A learning-rate schedule, or anything else that goes back with the network."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Snapshot:
    """The state at the end of ``epoch``: weights, biases, buffers, and by choice optimizer and schedule. All copies."""

    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None
    schedule: dict[str, Any] | None = None

    @classmethod
    def capture(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        schedule: Stateful | None = None,
        *,
        epoch: int = 0,
    ) -> Snapshot:
        """Copy the state: later training, or another rewind, cannot change it."""
        return cls(
            epoch,
            {name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
            None if optimizer is None else copy.deepcopy(optimizer.state_dict()),
            None if schedule is None else copy.deepcopy(schedule.state_dict()),
        )

    def restore(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        schedule: Stateful | None = None,
        *,
        masks: Mapping[str, Tensor] | None = None,
        optimizer_state: str = "restore",
    ) -> None:
        """Put everything back, in place, then apply the masks to weights and moments.

        ``optimizer_state``: ``"restore"`` the moments and step counts, or begin with ``"fresh"`` ones; the learning
        rate and the other settings are restored in both. ``masks``: with a :class:`MaskedAdam` or :class:`MaskedSGD`,
        they also become the optimizer's. Raises ``ValueError`` when asked for a part that was not captured.
        """
        if optimizer_state not in OPTIMIZER_REWINDS:
            raise ValueError(f"optimizer_state is '{optimizer_state}'; expected 'restore' or 'fresh'")
        model.load_state_dict(self.model)
        if optimizer is not None:
            if self.optimizer is None:
                raise ValueError(
                    "the snapshot has no optimizer state; capture it with the optimizer, or rewind without"
                )
            state = copy.deepcopy(self.optimizer)
            if optimizer_state == "fresh":
                state["state"] = {}
            optimizer.load_state_dict(state)
        if schedule is not None:
            if self.schedule is None:
                raise ValueError("the snapshot has no schedule; capture it with the schedule, or rewind without")
            schedule.load_state_dict(copy.deepcopy(self.schedule))
        if masks is not None:
            mask_state(model, optimizer, masks)


def mask_state(model: nn.Module, optimizer: torch.optim.Optimizer | None, masks: Mapping[str, Tensor]) -> None:
    """Zero what the masks prune, in the weights and in the moments of any torch optimizer."""
    apply_masks(model, masks)
    if isinstance(optimizer, MaskedOptimizer):
        optimizer.set_masks(masks)
    elif optimizer is not None:
        named = dict(model.named_parameters())
        zero_pruned(
            (value, name, mask)
            for name, mask in masks.items()
            for key, value in optimizer.state.get(named[name], {}).items()
            if key != "step" and isinstance(value, Tensor) and value.shape == mask.shape
        )
