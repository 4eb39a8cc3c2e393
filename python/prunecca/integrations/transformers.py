"""Pruning in the Trainer of transformers: ``Trainer(..., callbacks=[PruningCallback(recipe)])``."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

try:
    from transformers import TrainerCallback
except ImportError:
    raise ImportError(
        "prunecca.integrations.transformers needs transformers; install it with pip install 'prunecca[transformers]'"
    ) from None

from ..pruning import Recipe
from ..pruning.rewind import Stateful
from ..weights.pools import Pools
from .levels import Fresh, Levels, total_epochs


class PruningCallback(TrainerCallback):
    """Carry out a recipe in a training by transformers: prune, rewind, keep zeros, log ``density``.

    The epochs are those of ``imp``: the first training, then the retrainings, one after the other; give ``total_epochs``
    as ``num_train_epochs``. At the start of a retraining, weights, buffers, optimizer and learning-rate schedule go back to
    the rewind epoch. Evaluation and checkpoints of an epoch see the network as it was trained. The density is in
    ``trainer.state.log_history``, and in what callbacks after this one are told.

    Args:
        recipe: how to prune; ``pruned`` must be ``"zero"``.
        pools: by default ``pools_by_type`` of the model, when the training begins.
        fresh: as for ``imp``, for ``survivors="reinitialize"``.

    Attributes:
        total_epochs: those of the recipe.
        masks: those of now, once the training has begun.

    Raises:
        TypeError: the recipe is none.
        ValueError: the recipe needs what a callback cannot give; later, that a training is resumed, or is to end with its
            best checkpoint (``load_best_model_at_end``), which is that of another level.

    Warns:
        UserWarning: the training ended before all levels were trained.

    Example:
        >>> import prunecca as pc
        >>> from prunecca.integrations.transformers import PruningCallback
        >>> PruningCallback(pc.pruning.Recipe(rates=0.2, levels=2, epochs=10, rewind_epoch=3)).total_epochs
        24
    """

    def __init__(self, recipe: Recipe, pools: Pools | None = None, fresh: Fresh | None = None) -> None:
        self.total_epochs = total_epochs(recipe)
        self._levels = Levels(recipe, pools, fresh)

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        return self._levels.masks

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step:
            raise ValueError(
                f"the training is resumed at step {state.global_step}, but checkpoints of transformers hold no state to rewind "
                "to; begin it anew, or prune with imp"
            )
        if args.load_best_model_at_end:
            raise ValueError(
                "load_best_model_at_end is True, and the best checkpoint of all levels is mostly unpruned; expected False, load "
                "the checkpoint of the level that you want"
            )
        self._levels.begin(given["model"], *_trained_by(given))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._levels.begin_epoch(given["model"], *_trained_by(given))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._levels.finish()

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        density = self._levels.density
        if given.get("logs") is not None:
            given["logs"]["density"] = density
        if state.log_history:
            state.log_history[-1]["density"] = density


def _trained_by(given: dict[str, Any]) -> tuple[Optimizer, Stateful | None]:
    """The optimizer and the schedule inside the wrappers of accelerate."""
    optimizer, schedule = given["optimizer"], given["lr_scheduler"]
    inside = getattr(optimizer, "optimizer", None)
    return inside if isinstance(inside, Optimizer) else optimizer, getattr(schedule, "scheduler", schedule)
