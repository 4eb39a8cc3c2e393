"""A recipe carried out epoch by epoch, while somebody else trains the network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from ..pruning import Masking, Recipe, Snapshot, density, full_masks, masked, next_masks, next_weights, pools_by_type
from ..pruning.criteria import SCORED
from ..pruning.recipe import check_recipe
from ..pruning.rewind import Stateful
from ..weights.pools import Pools
from ..weights.rates import rates_by_pool

Fresh = Callable[[int], Mapping[str, Tensor]]


def total_epochs(recipe: Recipe) -> int:
    """All epochs of a recipe: the first training, and each retraining.

    Raises:
        TypeError: it is no recipe.
    """
    check_recipe(recipe)
    retraining = recipe.retraining
    return recipe.epochs + recipe.levels * (retraining.last - retraining.first)


class Levels:
    """Where a recipe stands: told of the beginning of each epoch, it prunes and rewinds when it is time.

    Args:
        recipe: pruned weights become zero.
        pools: by default ``pools_by_type``.
        fresh: as for ``imp``.
    """

    def __init__(self, recipe: Recipe, pools: Pools | None, fresh: Fresh | None) -> None:
        if recipe.frozen:
            raise ValueError(f"pruned is '{recipe.pruned}'; a callback keeps pruned weights at zero, expected 'zero'")
        if recipe.criterion in SCORED or recipe.penalty != "none":
            given = (
                f"criterion is '{recipe.criterion}'" if recipe.criterion in SCORED else f"penalty is '{recipe.penalty}'"
            )
            raise ValueError(
                f"{given}, which needs passes of its own before each pruning; expected a recipe without, or use imp"
            )
        if recipe.survivors == "reinitialize" and fresh is None:
            raise ValueError(
                "survivors='reinitialize' needs the state of a new random network; pass fresh, a function of the level"
            )
        self.recipe, self.level, self.epoch = recipe, 0, 0
        self.masks: dict[str, Tensor] = {}
        self.snapshots: dict[str, Snapshot] = {}  # "initial", "rewind", "unpruned"
        self._pools, self._fresh = pools, fresh
        self._masking: Masking | None = None

    @property
    def density(self) -> float:
        """The fraction of the pooled weights that is kept."""
        return density(self.masks)

    def begin(self, model: nn.Module, optimizer: Optimizer, schedule: Stateful | None) -> None:
        """The training begins, or goes on after ``load``: pools, masks, and the hook that keeps zeros."""
        if self.recipe.final_rate and schedule is not None:
            raise ValueError(
                "final_rate retrains at the last learning rate, which the schedule of a trainer would go on to change; train "
                "without a schedule, or take another recipe"
            )
        if self._pools is None:
            self._pools = pools_by_type(model)
        rates_by_pool(self.recipe.rates, self._pools)
        self.masks = self.masks or full_masks(model, self._pools)
        self._masking = masked(optimizer, self.masks, model)
        self.snapshots.setdefault("initial", Snapshot.capture(model))

    def end(self) -> None:
        """The training is over, or broken off: the optimizer is left as it was, and the network pruned."""
        if self._masking is not None:
            self._masking.remove()
        self._masking = None

    def finish(self) -> None:
        """The training has ended by itself: all levels should have been trained."""
        if self.level < self.recipe.levels:
            warnings.warn(
                f"the training ended in epoch {self.epoch} of level {self.level}, and the recipe has {self.recipe.levels} levels; "
                f"the trainer must run {total_epochs(self.recipe)} epochs, callback.total_epochs",
                UserWarning,
                stacklevel=2,
            )
        self.end()

    def begin_epoch(self, model: nn.Module, optimizer: Optimizer, schedule: Stateful | None) -> None:
        """Before an epoch is trained, when all that belongs to the one before is done."""
        if self.level == 0 and self.epoch == self.recipe.rewind_epoch:
            self.snapshots["rewind"] = Snapshot.capture(model, optimizer, schedule, epoch=self.epoch)
        while self.level < self.recipe.levels and self.epoch == self._last():
            self._prune(model, optimizer, schedule)
        self.epoch += 1

    def _last(self) -> int:
        return self.recipe.epochs if self.level == 0 else self.recipe.retraining.last

    def _prune(self, model: nn.Module, optimizer: Optimizer, schedule: Stateful | None) -> None:
        recipe, retraining = self.recipe, self.recipe.retraining
        final = Snapshot.capture(model, optimizer, schedule, epoch=self.epoch)
        if self.level == 0 and recipe.one_shot:
            self.snapshots["unpruned"] = final
        self.level += 1
        trained, rewind = self.snapshots.get("unpruned", final), self.snapshots["rewind"]
        initial, before = self.snapshots["initial"], self.masks
        self.masks = next_masks(recipe, self._pools or {}, trained.model, before, self.level, initial.model)
        weights = next_weights(
            recipe,
            self.masks,
            self.level,
            previous=None if recipe.one_shot else before,
            initial=initial.model,
            rewind=rewind.model,
            final=trained.model,
            fresh=self._fresh(self.level) if self._fresh else None,
        )
        source = trained if retraining.from_end else rewind
        state = source.optimizer
        if state is not None and rewind.optimizer is not None and not recipe.final_rate:
            state = replace(state, groups=rewind.optimizer.groups)  # the learning rate goes with the schedule
        start = Snapshot(retraining.first, weights, state, rewind.schedule)
        start.restore(model, optimizer, schedule, masks=self.masks, optimizer_state=retraining.optimizer)
        if self._masking is not None:
            self._masking.set_masks(self.masks)
        self.epoch = retraining.first
