"""What is pruned at each level, and from where the rest is trained again: the ways of the literature, as options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

from ..methods.penalty import check_penalty
from ..methods.scopes import EXPECTED, check_scope, is_scope
from ..methods.supermask import check_sampling
from ..weights.rates import rate_as_written
from .criteria import CRITERIA, SCORED

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
    "frozen": "the value it would have had where its retraining starts, frozen",
    "by_movement": "0 if training made it smaller than it was initially, otherwise as frozen",
}
# The optimizer state of a retraining: what belongs to the values of the survivors, that of the rewind epoch, or none.
OPTIMIZER_STATES = ("restore", "rewind", "fresh")


@dataclass(frozen=True)
class Recipe:
    """One way of iterative pruning. The default is the paper's: magnitude pruning with rewinding to the third epoch.

    Attributes:
        rates: fraction of the survivors pruned per level, for each pool or for all, as in ``prune``.
        levels: pruning iterations.
        epochs: T, of the first training.
        rewind_epoch: k; retraining runs the remaining T - k epochs, or ``retraining_epochs``.
        retraining_epochs: None for T - k.
        criterion: as in ``prune``; or ``"wanda"``, ``|W|`` times the root mean square of the input; ``"fisher"``, whole
            channels by ``fisher_channel_scores``, with ``scope="channel"``; or ``"supermask"``, scores that are trained
            while the weights stay at their initialisation.
        alpha, scope, seed: as in ``prune``.
        survivors, pruned: see ``SURVIVORS`` and ``PRUNED``.
        rewind_optimizer: ``"restore"`` the optimizer state that belongs to the survivors' values, take that of the
            ``"rewind"`` epoch whatever their values, or start ``"fresh"``.
        final_rate: retrain at the last learning rate instead of the schedule from epoch k on.
        one_shot: prune the unpruned network straight to the density of each level.
        penalty: what draws weights to zero in ``penalty_epochs`` of training before each pruning: ``"none"``, ``"l1"``,
            ``"l1_loss"`` or ``"admm"``, as in ``MaskedAdam.set_penalty``; Z is what the next pruning would keep of W + U.
        penalty_strength: lambda of L1, rho of ADMM.
        penalty_epochs: at the last learning rate, from the trained weights and with a new optimizer.
        score_epochs: of training the scores of a supermask before each pruning.
        score_rate: learning rate of the scores, of Adam.
        sampling: of the masks in that training, as in ``Supermask``. At first a weight is kept with the probability that is
            the density of its pool after the pruning.

    Raises:
        ValueError: an option is none of those it may be.
        TypeError: a rate is no number, or a count no whole number.

    Example:
        >>> import prunecca as pc
        >>> pc.pruning.Recipe(rates=0.2, levels=3, epochs=10).retraining
        Retraining(first=3, last=10, optimizer='restore', from_end=False)
    """

    rates: Any = field(default_factory=lambda: {"conv": 0.1, "fc": 0.2})
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
    penalty: str = "none"
    penalty_strength: float = 0.0
    penalty_epochs: int = 0
    score_epochs: int = 0
    score_rate: float = 0.1
    sampling: str = "bernoulli"

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA | SCORED:
            raise ValueError(
                f"criterion '{self.criterion}' is unknown; expected one of {', '.join([*CRITERIA, *SCORED])}"
            )
        if not is_scope(self.scope):
            raise ValueError(f"scope is '{self.scope}'; expected one of {EXPECTED}")
        check_scope(self.scope)
        for pool, rate in self.rates.items() if isinstance(self.rates, Mapping) else [("each", self.rates)]:
            rate_as_written(rate, pool)
        for option, value, known in (
            ("survivors", self.survivors, SURVIVORS),
            ("pruned", self.pruned, PRUNED),
            ("rewind_optimizer", self.rewind_optimizer, OPTIMIZER_STATES),
        ):
            if value not in known:
                raise ValueError(f"{option} is '{value}'; expected one of {', '.join(known)}")
        for option in (
            "levels",
            "epochs",
            "rewind_epoch",
            "penalty_epochs",
            "score_epochs",
            "seed",
            "retraining_epochs",
        ):
            given = getattr(self, option)
            if (isinstance(given, bool) or not isinstance(given, Integral)) and (option, given) != (
                "retraining_epochs",
                None,
            ):
                raise TypeError(f"{option} is {given!r}; expected a whole number")
        for option in ("alpha", "score_rate"):
            given = getattr(self, option)
            if not isinstance(given, Real) or not math.isfinite(given):
                raise ValueError(f"{option} is {given!r}; expected a finite number")
        check_penalty(self.penalty, self.penalty_strength)
        if self.penalty_epochs < (self.penalty != "none"):
            raise ValueError(
                f"penalty_epochs is {self.penalty_epochs} with the penalty '{self.penalty}'; expected "
                f"at least {int(self.penalty != 'none')}"
            )
        self._check_scores()
        if self.levels < 0 or self.epochs < 1:
            raise ValueError(f"levels is {self.levels} and epochs {self.epochs}; expected at least 0 and 1")
        if not 0 <= self.rewind_epoch <= self.epochs:
            raise ValueError(
                f"rewind_epoch is {self.rewind_epoch}; expected 0 to {self.epochs}, the epochs of training"
            )
        if self.retraining_epochs is not None and self.retraining_epochs < 0:
            raise ValueError(f"retraining_epochs is {self.retraining_epochs}; expected at least 0, or None")

    def _check_scores(self) -> None:
        check_sampling(self.sampling)
        learned = self.criterion == "supermask"
        if self.score_epochs < learned:
            raise ValueError(
                f"score_epochs is {self.score_epochs} with the criterion '{self.criterion}'; expected at least {int(learned)}"
            )
        if not 0 < self.score_rate < math.inf:
            raise ValueError(f"score_rate is {self.score_rate}; expected a learning rate above 0")
        if learned and self.survivors == "keep":
            raise ValueError(
                "the criterion 'supermask' is given with the survivors 'keep', trained values; expected 'rewind', since its "
                "masks are learned for the weights at initialisation"
            )
        if self.criterion == "fisher" and self.scope != "channel":
            raise ValueError(
                f"the criterion 'fisher' is given with the scope '{self.scope}'; expected 'channel', as it scores whole channels"
            )
        if self.criterion in SCORED and self.penalty != "none":
            raise ValueError(
                f"the criterion '{self.criterion}' is given with the penalty '{self.penalty}'; expected one of the two"
            )

    @property
    def retraining(self) -> Retraining:
        """The epochs of each retraining, and what it starts with."""
        first = self.epochs if self.final_rate else self.rewind_epoch
        length = self.epochs - self.rewind_epoch if self.retraining_epochs is None else self.retraining_epochs
        # Values that no optimizer state belongs to are trained from a fresh one.
        orphans = self.survivors in ("shuffle", "signed_constant", "reinitialize")
        state = "fresh" if orphans or self.rewind_optimizer == "fresh" else "restore"
        return Retraining(first, first + length, state, self.survivors == "keep" and self.rewind_optimizer != "rewind")

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


_DRAWN: dict[str, Any] = {"survivors": "keep", "rewind_optimizer": "fresh", "penalty_epochs": 10}

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
    # Li et al. 2017: whole channels of lowest L1 norm, here with rewinding.
    "structured": {"scope": "channel"},
    # Crowley et al. 2018: whole channels that the loss misses least, by the Fisher information, here with rewinding.
    "fisher": {"criterion": "fisher", "scope": "channel"},
    # Weights are drawn to zero before they are pruned: by L1 (Han et al. 2015, here as a proximal step, or in the loss), and
    # by the alternating direction method of multipliers (Zhang et al. 2018). Then the rest is trained as it stands.
    "l1": {**_DRAWN, "penalty": "l1", "penalty_strength": 0.1},
    "l1_loss": {**_DRAWN, "penalty": "l1_loss", "penalty_strength": 1e-4},
    "admm": {**_DRAWN, "penalty": "admm", "penalty_strength": 1e-2},
    # Magnitudes count as much as their inputs are large, within each row (Sun et al. 2023); then as Han et al. 2015.
    "wanda": {"criterion": "wanda", "scope": "row", "survivors": "keep", "final_rate": True},
    # Zhou et al. 2019, section 5: masks of the initialisation are learned, and no weight is ever trained.
    "supermask": {
        "criterion": "supermask",
        "one_shot": True,
        "rewind_epoch": 0,
        "retraining_epochs": 0,
        "score_epochs": 10,
    },
    # Controls: is it these weights, these values, or only the retraining?
    "random_mask": {"criterion": "random"},
    "random_reinitialization": {"survivors": "reinitialize", "rewind_epoch": 0},
    "no_pruning": {"rates": 0.0},
}


def check_recipe(recipe: object) -> None:
    """Refuse what is no recipe, such as the name of one.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe is {recipe!r}; expected a Recipe, as from recipe_named('fine_tuning')")


def find_recipe(name: str, **options: Any) -> Recipe:
    """A recipe of the literature by name.

    Args:
        name: one of ``RECIPES``.
        options: fields of ``Recipe`` that take the place of the recipe's own.

    Raises:
        ValueError: there is no such recipe.

    Example:
        >>> import prunecca as pc
        >>> pc.pruning.recipe_named("fine_tuning", levels=1).survivors
        'keep'
    """
    if name not in RECIPES:
        raise ValueError(f"recipe '{name}' is unknown; expected one of {', '.join(RECIPES)}")
    return replace(Recipe(**RECIPES[name]), **options)


recipe_named = find_recipe  # its public name
