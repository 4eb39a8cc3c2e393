"""Pruning in Lightning: ``callback = PruningCallback(recipe)``, ``Trainer(callbacks=[callback], max_epochs=callback.total_epochs)``."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from ..pruning import Recipe, Snapshot
from ..pruning.rewind import Stateful
from ..weights.pools import Pools
from .levels import Fresh, Levels, total_epochs


def _callback() -> Any:
    """The class of callbacks, of whichever of Lightning's two packages there is."""
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            return importlib.import_module(package).Callback
        except ImportError:
            continue
    raise ImportError(
        "prunecca.integrations.lightning needs Lightning; install it with pip install 'prunecca[lightning]'"
    )


_Callback: Any = _callback()


class PruningCallback(_Callback):
    """Carry out a recipe in a Lightning training: prune, rewind, keep zeros, log ``density``.

    The epochs are those of ``imp``: the first training, then the retrainings, one after the other. At the start of a
    retraining, weights, buffers, optimizer and learning-rate schedule go back to the rewind epoch, so a schedule should be
    as long as ``recipe.epochs``. Validation and checkpoints of an epoch see the network as it was trained. A training that
    is resumed from a checkpoint goes on with the masks, and can still rewind.

    Args:
        recipe: how to prune; ``pruned`` must be ``"zero"``.
        pools: by default ``pools_by_type`` of the module, when the training begins.
        fresh: as for ``imp``, for ``survivors="reinitialize"``.

    Attributes:
        total_epochs: those of the recipe, for ``max_epochs``.
        masks: those of now, once the training has begun.

    Raises:
        TypeError: the recipe is none.
        ValueError: the recipe needs what a callback cannot give.

    Warns:
        UserWarning: the training ended before all levels were trained.

    Example:
        >>> import prunecca as pc
        >>> from prunecca.integrations.lightning import PruningCallback
        >>> PruningCallback(pc.pruning.Recipe(rates=0.2, levels=2, epochs=10, rewind_epoch=3)).total_epochs
        24
    """

    def __init__(self, recipe: Recipe, pools: Pools | None = None, fresh: Fresh | None = None) -> None:
        self.total_epochs = total_epochs(recipe)
        self._levels = Levels(recipe, pools, fresh)

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        return self._levels.masks

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._levels.begin(pl_module, *_trained_by(trainer))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._levels.begin_epoch(pl_module, *_trained_by(trainer))
        pl_module.log("density", self._levels.density)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._levels.finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._levels.end()

    def state_dict(self) -> dict[str, Any]:
        levels = self._levels
        stored = {
            name: torch.from_numpy(np.frombuffer(bytearray(snapshot.as_bytes()), np.uint8))
            for name, snapshot in levels.snapshots.items()
        }
        return {"level": levels.level, "epoch": levels.epoch, "masks": levels.masks, "snapshots": stored}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        levels = self._levels
        levels.level, levels.epoch, levels.masks = state_dict["level"], state_dict["epoch"], state_dict["masks"]
        levels.snapshots = {
            name: Snapshot.from_bytes(data.numpy().tobytes(), f"the state '{name}' of the pruning callback")
            for name, data in state_dict["snapshots"].items()
        }


def _trained_by(trainer: Any) -> tuple[Optimizer, Stateful | None]:
    optimizers, schedules = trainer.optimizers, [config.scheduler for config in trainer.lr_scheduler_configs]
    if len(optimizers) != 1 or len(schedules) > 1:
        raise ValueError(
            f"the module has {len(optimizers)} optimizers and {len(schedules)} schedules; the pruning callback expects one "
            "optimizer, and at most one schedule"
        )
    return optimizers[0], schedules[0] if schedules else None
