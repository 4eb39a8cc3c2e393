"""Rewinding: the whole state at the end of an epoch, kept as copies, stored as a file, and put back bit by bit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..storage import states
from ..storage.regular_files import LARGEST_STATE, read_regular
from .masked_optimizer import MaskedOptimizer
from .masks import apply_masks, zero_pruned
from .optimizer_state import OptimizerState

OPTIMIZER_REWINDS = ("restore", "fresh")


class Stateful(Protocol):
    """A learning-rate schedule, or anything else that goes back with the network."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Snapshot:
    """The state at the end of an epoch, as copies; the only form in which a network in training is saved.

    Attributes:
        epoch: epochs finished.
        model: weights, biases and buffers, as ``model.state_dict()``.
        optimizer: what the optimizer remembers, by parameter name; None if it was not captured.
        schedule: the state of a learning-rate schedule; None if it was not captured.
        best: the weights of lowest validation loss so far, where a training keeps them.
        records: what else belongs to the state, fit for JSON, such as the records of the epochs.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Linear(2, 1)
        >>> start = pc.pruning.Snapshot.capture(model)
        >>> with torch.no_grad():
        ...     _ = model.weight.zero_()
        >>> start.restore(model)
        >>> bool(model.weight.any())
        True
    """

    epoch: int
    model: dict[str, Tensor]
    optimizer: OptimizerState | None = None
    schedule: dict[str, Any] | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def capture(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        schedule: Stateful | None = None,
        *,
        epoch: int = 0,
    ) -> Snapshot:
        """Copy the state: later training, or another rewind, cannot change it.

        Args:
            model: the network.
            optimizer: of the network's parameters; None leaves it out.
            schedule: a learning-rate schedule; None leaves it out.
            epoch: epochs finished.

        Returns:
            The snapshot, its tensors where those of the model are.
        """
        return cls(
            epoch,
            copied(model),
            None if optimizer is None else OptimizerState.capture(model, optimizer),
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

        Args:
            model: a network of the same architecture.
            optimizer: of its parameters; None restores none.
            schedule: a schedule of the same kind; None restores none.
            masks: parameter name -> ``torch.bool``; with a ``MaskedAdam`` or ``MaskedSGD`` they also become the
                optimizer's.
            optimizer_state: ``"restore"`` the moments and step counts, or begin with ``"fresh"`` ones; the learning
                rate and the other settings are restored in both.

        Raises:
            ValueError: a part is asked for that was not captured.
        """
        if optimizer_state not in OPTIMIZER_REWINDS:
            raise ValueError(f"optimizer_state is '{optimizer_state}'; expected 'restore' or 'fresh'")
        model.load_state_dict(self.model)
        if optimizer is not None:
            if self.optimizer is None:
                raise ValueError(
                    "the snapshot has no optimizer state; capture it with the optimizer, or rewind without"
                )
            (self.optimizer.fresh() if optimizer_state == "fresh" else self.optimizer).restore(model, optimizer)
        if schedule is not None:
            if self.schedule is None:
                raise ValueError("the snapshot has no schedule; capture it with the schedule, or rewind without")
            schedule.load_state_dict(copy.deepcopy(self.schedule))
        if masks is not None:
            mask_state(model, optimizer, masks)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by ``model.``, ``optimizer.`` or ``best.`` and their name."""
        parts = {"model": self.model, "optimizer": self.optimizer.tensors if self.optimizer else {}, "best": self.best}
        named = {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
        for name, value in named.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} is a {type(value).__name__}; only tensors can be stored, keep it elsewhere")
        return named

    def as_bytes(self) -> bytes:
        """The content of a file: the same state gives the same bytes."""
        return states.state_bytes(self.tensors(), self._metadata())

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
            TypeError: a setting of the optimizer, or a record, is nothing that JSON can hold.
        """
        states.save_state(path, self.tensors(), self._metadata())

    @classmethod
    def load(cls, path: str | Path) -> Snapshot:
        """Read what ``save`` wrote, verified.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptFile: the file is cut short, was changed, or is something else.
        """
        return cls.from_bytes(read_regular(path, LARGEST_STATE), str(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "the state") -> Snapshot:
        """The snapshot whose ``as_bytes`` are ``data``; ``name`` is used in errors."""
        tensors, metadata = states.state_from_bytes(data, name)
        if "epoch" not in metadata:
            raise states.not_whole(name, data)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "best": {}}
        for full_name, tensor in tensors.items():
            part, _, rest = full_name.partition(".")
            parts[part][rest] = tensor
        kept = metadata["optimizer"]
        return cls(
            metadata["epoch"],
            parts["model"],
            None if kept is None else OptimizerState(parts["optimizer"], kept["numbers"], _groups(kept["groups"])),
            metadata["schedule"],
            parts["best"],
            metadata["records"],
        )

    def _metadata(self) -> dict[str, Any]:
        kept = self.optimizer
        groups = [{key: _plain(value) for key, value in group.items()} for group in kept.groups] if kept else []
        return {
            "epoch": self.epoch,
            "optimizer": {"numbers": kept.numbers, "groups": groups} if kept else None,
            "schedule": self.schedule,
            "records": self.records,
        }


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all weights, biases, buffers and extra state."""
    # Not all of it need be tensors: modules may add state of their own (get_extra_state).
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in model.state_dict().items()
    }


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


def _groups(stored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # JSON knows no tuples, which torch's optimizers use for betas.
    return [{key: tuple(v) if isinstance(v, list) else v for key, v in group.items()} for group in stored]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value
