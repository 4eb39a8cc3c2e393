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
from ..storage.structures import put_together, taken_apart
from ..weights.names import copies_of, first_names, named_tensors, without_wrappers
from .masked_optimizer import MaskedOptimizer
from .masks import apply_masks, zero_pruned
from .optimizer_state import OptimizerState, held_by, moments_of

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
        model: weights, biases, buffers and extra state, as ``model.state_dict()``; a shared weight is one tensor under
            each of its names.
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
        """All tensors by ``model.``, ``optimizer.`` or ``best.`` and their first name, and those within other values."""
        return self._stored()[0]

    def as_bytes(self) -> bytes:
        """The content of a file: the same state gives the same bytes."""
        return states.state_bytes(*self._stored())

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
            TypeError: a setting of the optimizer, extra state, or a record is neither tensors nor what JSON can hold.
        """
        states.save_state(path, *self._stored())

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
        extra = put_together(metadata.get("extra"), tensors) or {}
        parts: dict[str, dict[str, Any]] = {"model": {}, "optimizer": {}, "best": {}}
        for full_name, tensor in tensors.items():
            part, _, rest = full_name.partition(".")
            parts[part][rest] = tensor
        for part in ("model", "best"):
            parts[part].update(extra.get(part, {}))
            for alias, known in metadata.get("tied", {}).get(part, {}).items():
                parts[part][alias] = parts[part][known]
        kept = metadata["optimizer"]
        return cls(
            metadata["epoch"],
            parts["model"],
            None if kept is None else _optimizer_state(parts["optimizer"], kept, extra.get("optimizer", {})),
            metadata["schedule"],
            parts["best"],
            metadata["records"],
        )

    def _stored(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of a file. What only few states have has a key only in these."""
        tensors: dict[str, Tensor] = {}
        extra: dict[str, Any] = {}
        tied: dict[str, dict[str, str]] = {}
        for part, values in (("model", self.model), ("best", self.best)):
            aliases = {name: known for name, known in first_names(values).items() if name != known}
            kept = {name: value for name, value in values.items() if name not in aliases}
            tensors |= {f"{part}.{name}": value for name, value in kept.items() if isinstance(value, Tensor)}
            others = {name: value for name, value in kept.items() if not isinstance(value, Tensor)}
            if others:  # of get_extra_state
                extra[part] = others
            if aliases:
                tied[part] = aliases
        optimizer = self.optimizer
        if optimizer is not None:
            tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.tensors.items()}
            rest = _beyond_json(optimizer)
            if rest:
                extra["optimizer"] = rest
        apart = taken_apart(extra, "extra", tensors) if extra else None
        return tensors, {
            "epoch": self.epoch,
            "optimizer": None
            if optimizer is None
            else {"numbers": _numbers(optimizer), "groups": _settings(optimizer)},
            "schedule": self.schedule,
            "records": self.records,
            **({"extra": apart} if extra else {}),
            **({"tied": tied} if tied else {}),
        }


def copied(model: nn.Module) -> dict[str, Any]:
    """Copies of all weights, biases, buffers and extra state (``get_extra_state``, which may be anything)."""
    return copies_of(model.state_dict())


def mask_state(model: nn.Module, optimizer: torch.optim.Optimizer | None, masks: Mapping[str, Tensor]) -> None:
    """Zero what the masks prune, in the weights and in the moments of any torch optimizer."""
    apply_masks(model, masks)
    if isinstance(optimizer, MaskedOptimizer):
        optimizer.set_masks(masks)
    elif optimizer is not None:
        named = named_tensors(model)
        named = without_wrappers(named) | named
        zero_pruned(
            (moment, name, mask)
            for held in (optimizer, *held_by(optimizer).values())
            for name, mask in masks.items()
            for moment in moments_of(held, named[name])
            if moment.dim()
        )


def _beyond_json(state: OptimizerState) -> dict[str, Any]:
    """The parts of an optimizer's state that most have not."""
    nested = {name: value for name, value in state.numbers.items() if isinstance(value, list | tuple | dict)}
    inner = {
        name: {"tensors": s.tensors, "numbers": s.numbers, "groups": _settings(s), "rest": _beyond_json(s)}
        for name, s in state.inner.items()
    }
    return {key: value for key, value in (("nested", nested), ("others", state.others), ("inner", inner)) if value}


def _optimizer_state(tensors: dict[str, Tensor], kept: dict[str, Any], rest: dict[str, Any]) -> OptimizerState:
    inner = {name: _optimizer_state(s["tensors"], s, s["rest"]) for name, s in rest.get("inner", {}).items()}
    numbers = kept["numbers"] | rest.get("nested", {})
    return OptimizerState(tensors, numbers, _groups(kept["groups"]), rest.get("others", {}), inner)


def _numbers(state: OptimizerState) -> dict[str, Any]:
    return {name: value for name, value in state.numbers.items() if not isinstance(value, list | tuple | dict)}


def _settings(state: OptimizerState) -> list[dict[str, Any]]:
    return [{key: _plain(value) for key, value in group.items()} for group in state.groups]


def _groups(stored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # JSON knows no tuples, which torch's optimizers use for betas.
    return [{key: tuple(v) if isinstance(v, list) else v for key, v in group.items()} for group in stored]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value
