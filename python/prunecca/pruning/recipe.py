"""What is pruned at each level, and from where the rest is trained again: the ways of the literature, as options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .criteria import criterion_named
from .masks import SCOPES
from .rewind import OPTIMIZER_REWINDS

# What a kept weight becomes before it is trained again (Zhou et al. 2019, "mask-1 actions", and two more).
SURVIVORS = {
    "rewind": "its value at the rewind epoch",
    "keep": "its trained value",
    "shuffle": "a value of another kept weight of its tensor at the rewind epoch",
    "signed_constant": "its sign at the rewind epoch times its tensor's standard deviation at initialisation",
    "reinitialize": "its value in a new random network",
}
# What a pruned weight becomes, for good (Zhou et al. 2019, "mask-0 actions").
PRUNED = {
    "zero": "0",
    "init": "its value at initialisation, frozen",
    "zero_if_shrunk": "0 if training made it smaller, otherwise its value at initialisation, frozen",
}


@dataclass(frozen=True)
class Recipe:
    """One way of iterative pruning. The default is the paper's: magnitude pruning with rewinding to the third epoch.

    rates: fraction of the survivors pruned per level, for each pool or for all. levels: pruning iterations.
    epochs: T, of the first training. rewind_epoch: k; retraining runs the remaining T - k epochs, or
    ``retraining_epochs``. criterion, alpha, scope, seed: of :func:`prunecca.pruning.prune`. survivors, pruned: see
    SURVIVORS and PRUNED. rewind_optimizer: ``"restore"`` the optimizer state that belongs to the survivors' values, or
    start it ``"fresh"``. final_rate: retrain at the last learning rate instead of the schedule from epoch k on.
    one_shot: prune the unpruned network straight to the density of each level.
    """

    rates: float | Mapping[str, float] = field(default_factory=lambda: {"conv": 0.1, "fc": 0.2})
    levels: int = 20
    epochs: int = 50
    rewind_epoch: int = 3
    retraining_epochs: int | None = None
    criterion: str = "large_final"
    alpha: float = 1.0
    scope: str = "pool"
    survivors: str = "rewind"
    pruned: str = "zero"
    rewind_optimizer: str = "restore"
    final_rate: bool = False
    one_shot: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        criterion_named(self.criterion)
        for option, value, known in (
            ("scope", self.scope, SCOPES),
            ("survivors", self.survivors, SURVIVORS),
            ("pruned", self.pruned, PRUNED),
            ("rewind_optimizer", self.rewind_optimizer, OPTIMIZER_REWINDS),
        ):
            if value not in known:
                raise ValueError(f"{option} is '{value}'; expected one of {', '.join(known)}")
        if self.levels < 0 or self.epochs < 1:
            raise ValueError(f"levels is {self.levels} and epochs {self.epochs}; expected at least 0 and 1")
        if not 0 <= self.rewind_epoch <= self.epochs:
            raise ValueError(
                f"rewind_epoch is {self.rewind_epoch}; expected 0 to {self.epochs}, the epochs of training"
            )
        if self.retraining_epochs is not None and self.retraining_epochs < 0:
            raise ValueError(f"retraining_epochs is {self.retraining_epochs}; expected at least 0, or None")

    @property
    def retraining(self) -> Retraining:
        """The epochs of each retraining, and what it starts with."""
        first = self.epochs if self.final_rate else self.rewind_epoch
        length = self.epochs - self.rewind_epoch if self.retraining_epochs is None else self.retraining_epochs
        # Values that no optimizer state belongs to are trained from a fresh one.
        orphans = self.survivors in ("shuffle", "signed_constant", "reinitialize")
        state = "fresh" if orphans else self.rewind_optimizer
        return Retraining(first, first + length, state, self.survivors == "keep")

    @property
    def frozen(self) -> bool:
        """Whether pruned weights keep a value: the optimizer must then be made with ``pruned="frozen"``."""
        return self.pruned != "zero"


@dataclass(frozen=True)
class Retraining:
    """Epochs [first, last) in the numbering of the schedule; optimizer: ``"restore"`` or ``"fresh"``, and from where."""

    first: int
    last: int
    optimizer: str
    from_end: bool  # the optimizer state is that of the end of the training before, not of the rewind epoch


RECIPES: dict[str, dict[str, Any]] = {
    # Frankle et al. 2019 and the paper: weights, optimizer and schedule go back to epoch k.
    "weight_rewinding": {},
    # Frankle and Carbin 2019: back to the initialisation.
    "lottery_ticket": {"rewind_epoch": 0},
    # Renda et al. 2020: weights stay, the schedule goes back.
    "learning_rate_rewinding": {"survivors": "keep"},
    # Han et al. 2015: weights stay, training goes on at the last learning rate.
    "fine_tuning": {"survivors": "keep", "final_rate": True},
    "one_shot": {"one_shot": True},
    # Controls: is it these weights, these values, or only the retraining?
    "random_mask": {"criterion": "random"},
    "random_reinitialization": {"survivors": "reinitialize", "rewind_epoch": 0},
    "no_pruning": {"rates": 0.0},
}


def recipe_named(name: str, **options: Any) -> Recipe:
    """A recipe of the literature by name, see RECIPES, with other options as given."""
    if name not in RECIPES:
        raise ValueError(f"recipe '{name}' is unknown; expected one of {', '.join(RECIPES)}")
    return replace(Recipe(**RECIPES[name]), **options)
