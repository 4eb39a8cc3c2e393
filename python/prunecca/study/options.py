"""What a study does: every option and its default."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from ..methods.scopes import EXPECTED, check_scope
from ..methods.supermask import SAMPLING
from ..pruning.criteria import CRITERIA, SCORED
from ..pruning.recipe import PRUNED, RECIPES, Recipe, find_recipe

FORMAT = 3

SHORT_EPOCHS = 10
SHORT_LEVELS = 5
PAPER_LEVELS = 20
MOST = 10**6  # of anything that is counted: more is a slip of the finger
MOST_NETWORKS = 10_000  # of one problem
_MOST_IMAGES = 10**9
_MOST_NAMES = 10_000
_MOST_PIXELS = 4096  # of the side of an image
PRECISIONS = ("float32", "bfloat16", "auto")
_LARGEST_SEED = 2**63 - 1  # what torch takes

# --retrain: from where a pruned network is trained. "rewind": all of the state of epoch k. "lr_rewind" (Renda et al. 2020):
# the trained weights, with the schedule and optimizer of epoch k. "finetune" (Han et al. 2015): the trained weights, a fresh
# optimizer and the learning rate at which training ends. "reinit": new random weights, trained for all T epochs.
RETRAIN: dict[str, dict[str, Any]] = {
    "rewind": RECIPES["weight_rewinding"],
    "lr_rewind": {**RECIPES["learning_rate_rewinding"], "rewind_optimizer": "rewind"},
    "finetune": {**RECIPES["fine_tuning"], "rewind_optimizer": "fresh"},
    "reinit": RECIPES["random_reinitialization"],
}
_PENALTY = ("penalty", "penalty_strength", "penalty_epochs")
_SCORES = ("score_epochs", "score_rate", "sampling")
# The flags that make up the recipe, and their defaults: the paper's.
PRUNING_FLAGS: dict[str, Any] = {
    "rewind_epoch": 3,  # k: levels restart from the end of this epoch; 0 is the initialisation
    "rewind_optimizer": "restore",  # its state of epoch k, or begin "fresh"
    "criterion": "large_final",
    "scope": "pool",  # entries compete within their pool (conv, fc), "layer", "row", or all: "global"; whole ones: "channel"; or "N:M"
    "retrain": "rewind",
    "pruned_value": "zero",  # what a pruned entry holds from then on (Zhou et al. 2019): see `pruning.recipe.PRUNED`
    "recipe": None,  # of `RECIPES`: it decides the flags that are left at their defaults
    "penalty_strength": None,  # of a recipe with a penalty: lambda of L1, rho of ADMM
    "penalty_epochs": None,  # of training with the penalty, before each pruning
    "score_epochs": None,  # of training the scores of a supermask, before each pruning
    "score_rate": None,  # their learning rate
    "sampling": None,  # of the masks meanwhile: see `methods.supermask.SAMPLING`
    "retraining_epochs": None,  # of a pruned network; None: all that remain after the rewind epoch, or as the recipe says
    "one_shot": False,  # one pruning straight to the density of each level, from the unpruned network
}


@dataclass(frozen=True)
class Options:
    """Everything that decides the numbers of a study, apart from the problems themselves.

    Where the paper (Ansuini et al. 2020) names a value, it is the default. What is None is the problem's own.

    Attributes:
        seed: of everything random.
        epochs: T, of the unpruned network; a pruned one trains the T - k that remain.
        recipe: how networks are pruned and trained again. Its rates, epochs, levels and seed are those of the problem
            and the network: see ``resolve.ResolvedProblem.recipe``.
        conv_rate, fc_rate: fraction of the entries of a pool that one level prunes.
        prune_output_layer: whether the output layer is in a pool.
        dropout: after hidden linear layers.
        learning_rate, weight_decay: of Adam.
        batch_size, patience: images per step; epochs without improvement before stopping early.
        image_size: of images from a folder; the others are 32 pixels wide.
        train_images, test_images: random ones, to train on and to test on; None for all of them.
        evaluate_every: epochs between two looks at the test images; the last epoch always has one.
        precision: ``"float32"`` or ``"bfloat16"`` of the forward and backward passes, or ``"auto"``: the faster one, by a
            training step of each on the machine where the run directory is made; all its networks have that one.
        images: random training images, not augmented, on which the layers are compared.
        metrics: names of ``similarity.registry.METRICS``.
        variance, trim: of SVCCA and CCA. trim None is the mean over all correlations, as in the paper's text; 0.98 is
            as its implementation.
        dimension_images: of ``images``, on which intrinsic dimensions are estimated; 0 for none.
        layers: names or globs; None: after every convolution, pooling and hidden linear layer.
    """

    seed: int = 0
    epochs: int | None = None
    recipe: Recipe = field(default_factory=Recipe)
    conv_rate: float | None = None
    fc_rate: float | None = None
    prune_output_layer: bool = False
    dropout: float | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    batch_size: int | None = None
    patience: int | None = None
    image_size: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    evaluate_every: int = 1
    precision: str = "float32"
    images: int = 5000
    metrics: tuple[str, ...] = ("svcca", "cca", "pwcca", "linear_cka", "debiased_cka", "nbs", "procrustes")
    variance: float = 0.99
    trim: float | None = None
    dimension_images: int = 1000
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check(0 <= self.seed <= _LARGEST_SEED, "seed", self.seed, f"0 to {_LARGEST_SEED}")
        _check(self.epochs is None or 1 <= self.epochs <= MOST, "epochs", self.epochs, f"1 to {MOST}")
        for name, rate in (("conv-rate", self.conv_rate), ("fc-rate", self.fc_rate)):
            _check(rate is None or 0 <= rate < 1, name, rate, "a fraction from 0 up to, not including, 1")
        _check(self.dropout is None or 0 <= self.dropout < 1, "dropout", self.dropout, "a probability in [0, 1)")
        _check(0 < self.learning_rate < float("inf"), "learning-rate", self.learning_rate, "a positive number")
        _check(0 <= self.weight_decay < float("inf"), "weight-decay", self.weight_decay, "0 or more")
        _check(self.batch_size is None or 2 <= self.batch_size <= MOST, "batch-size", self.batch_size, f"2 to {MOST}")
        _check(self.patience is None or 1 <= self.patience <= MOST, "patience", self.patience, f"1 to {MOST}")
        side = self.image_size
        _check(side is None or 8 <= side <= _MOST_PIXELS, "image-size", side, f"8 to {_MOST_PIXELS} pixels")
        for name, count in (("train-images", self.train_images), ("test-images", self.test_images)):
            _check(count is None or 2 <= count <= _MOST_IMAGES, name, count, f"2 to {_MOST_IMAGES}")
        _check(1 <= self.evaluate_every <= MOST, "evaluate-every", self.evaluate_every, f"1 to {MOST}")
        _one_of("precision", self.precision, PRECISIONS)
        _check(2 <= self.images <= _MOST_IMAGES, "images", self.images, f"2 to {_MOST_IMAGES}")
        dimension = self.dimension_images
        _check(0 <= dimension <= _MOST_IMAGES, "dimension-images", dimension, f"0 to {_MOST_IMAGES}")
        _check(0 < self.variance <= 1, "variance", self.variance, "a fraction in (0, 1]")
        _check(self.trim is None or 0 < self.trim <= 1, "trim", self.trim, "a fraction in (0, 1]")
        _check(len(self.metrics) > 0, "metrics", "empty", "at least one, such as svcca")
        _check(self.layers is None or len(self.layers) > 0, "layers", "empty", "at least one, such as conv1")
        for name, texts in (("metrics", self.metrics), ("layers", self.layers or ())):
            _check(all(texts), name, "partly empty", "names, separated by commas")
            _check(len(texts) <= _MOST_NAMES, name, f"a list of {len(texts)}", f"at most {_MOST_NAMES}")

    @classmethod
    def from_flags(cls, **flags: Any) -> Options:
        """The options that the flags of ``prunecca reproduce`` stand for.

        Args:
            flags: fields of this class but ``recipe``, and ``PRUNING_FLAGS``, with underscores.

        Raises:
            ConfigurationError: a flag cannot be carried out; the sentence names it.
        """
        pruning = {**PRUNING_FLAGS, **{name: value for name, value in flags.items() if name in PRUNING_FLAGS}}
        drawn: dict[str, Any] = {}
        if pruning["recipe"] is not None:
            _one_of("recipe", pruning["recipe"], RECIPES)
            chosen = find_recipe(pruning["recipe"])
            said = {**_pruning_flags(chosen), "recipe": None}
            pruning |= {name: said[name] for name, value in pruning.items() if value == PRUNING_FLAGS[name]}
            drawn = {name: getattr(chosen, name) for name in (*_PENALTY, *_SCORES, "retraining_epochs")}
            if chosen.rates == 0:
                flags = {"conv_rate": 0.0, "fc_rate": 0.0} | flags
        drawn |= _penalty_flags(pruning, drawn) | _score_flags(pruning, drawn)
        _check(0 <= pruning["rewind_epoch"] <= MOST, "rewind-epoch", pruning["rewind_epoch"], f"0 to {MOST}")
        _one_of("rewind-optimizer", pruning["rewind_optimizer"], ("restore", "fresh"))
        _one_of("criterion", pruning["criterion"], CRITERIA | SCORED)
        _check_scope(pruning["scope"])
        if pruning["criterion"] == "fisher":
            _check(pruning["scope"] == "channel", "scope", pruning["scope"], "channel, as in --recipe fisher")
        _one_of("retrain", pruning["retrain"], RETRAIN)
        _one_of("pruned-value", pruning["pruned_value"], PRUNED)
        fields = {name: pruning[name] for name in ("rewind_epoch", "criterion", "scope", "one_shot")}
        if pruning["rewind_optimizer"] == "fresh":
            fields["rewind_optimizer"] = "fresh"
        fields |= {"pruned": pruning["pruned_value"], "epochs": max(Recipe.epochs, pruning["rewind_epoch"])}
        recipe = Recipe(**{**fields, **RETRAIN[pruning["retrain"]], **_if_fresh(fields), **drawn})
        return cls(recipe=recipe, **{name: value for name, value in flags.items() if name not in PRUNING_FLAGS})

    def flags(self) -> dict[str, Any]:
        """The flags that stand for these options, by name with underscores; the inverse of ``from_flags``."""
        pruning = _pruning_flags(self.recipe)
        flags: dict[str, Any] = {}
        for each in dataclasses.fields(self):
            flags |= pruning if each.name == "recipe" else {each.name: getattr(self, each.name)}
        return flags

    def as_json(self) -> dict[str, Any]:
        """A dictionary of plain values, in the order of the fields."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def metric_options(self) -> dict[str, dict[str, Any]]:
        """The metrics with the options of each, as `compare` takes them."""
        given: dict[str, dict[str, Any]] = {
            "svcca": {"variance": self.variance, "trim": self.trim},
            "cca": {"trim": self.trim},
        }
        return {name: given.get(name, {}) for name in self.metrics}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Options:
        """The options written by `as_json`, also by the first format, which had the flags instead of the recipe."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
        if "recipe" not in fields:
            return cls.from_flags(**fields)
        return cls(**{**fields, "recipe": Recipe(**fields["recipe"])})


@dataclass(frozen=True)
class Size:
    """How much of a problem is done. It decides no number of a finished network, so a study may grow.

    Attributes:
        levels: pruning iterations.
        replicates: repetitions from the same unpruned network.
        controls: networks retrained from epoch k without pruning, with the seeds of replicate 0, levels 1, 2, ...
        first_replicate: number of the first repetition; above 0 where another run directory has those before.
    """

    levels: int = SHORT_LEVELS
    replicates: int = 1
    controls: int = 1
    first_replicate: int = 0

    def __post_init__(self) -> None:
        _check(0 <= self.levels <= MOST, "levels", self.levels, f"0 to {MOST}")
        _check(1 <= self.replicates <= MOST, "replicates", self.replicates, f"1 to {MOST}")
        _check(0 <= self.controls <= MOST, "controls", self.controls, f"0 to {MOST}")
        _check(0 <= self.first_replicate <= MOST, "first replicate", self.first_replicate, f"0 to {MOST}")
        networks = 1 + self.levels * self.replicates + self.controls
        _check(
            networks <= MOST_NETWORKS,
            "levels x replicates + controls",
            f"{networks} networks",
            f"at most {MOST_NETWORKS}",
        )

    @property
    def numbers(self) -> range:
        """The numbers of the replicates."""
        return range(self.first_replicate, self.first_replicate + self.replicates)

    def merged(self, other: Size) -> Size:
        """The larger of both, number by number; of the replicates all from the first to the last of both.

        Without levels there are no replicates yet: those of the other count alone.
        """
        spans = [size.numbers for size in (self, other) if size.levels] or [other.numbers]
        first, stop = min(span.start for span in spans), max(span.stop for span in spans)
        return Size(max(self.levels, other.levels), stop - first, max(self.controls, other.controls), first)


def _pruning_flags(recipe: Recipe) -> dict[str, Any]:
    """The flags of ``PRUNING_FLAGS`` that stand for a recipe."""
    retrain, penalised, learned = _retrain(recipe), recipe.penalty != "none", recipe.criterion == "supermask"
    fresh = recipe.rewind_optimizer == "fresh" and retrain != "finetune"  # which is always
    return {
        "rewind_epoch": recipe.rewind_epoch,
        "rewind_optimizer": "fresh" if fresh else "restore",
        "criterion": recipe.criterion,
        "scope": recipe.scope,
        "retrain": retrain,
        "pruned_value": recipe.pruned,
        "recipe": recipe.penalty if penalised else "supermask" if learned else None,
        "penalty_strength": recipe.penalty_strength if penalised else None,
        "penalty_epochs": recipe.penalty_epochs if penalised else None,
        **{name: getattr(recipe, name) if learned else None for name in _SCORES},
        "retraining_epochs": recipe.retraining_epochs,
        "one_shot": recipe.one_shot,
    }


def _penalty_flags(pruning: Mapping[str, Any], drawn: dict[str, Any]) -> dict[str, Any]:
    """The fields of the penalty that flags give themselves."""
    given = {name: pruning[name] for name in _PENALTY[1:] if pruning[name] is not None}
    penalised = drawn.get("penalty", "none") != "none"
    for name, value in given.items():
        _check(penalised, name.replace("_", "-"), value, "a --recipe that has a penalty: l1, l1_loss or admm")
    strength, epochs = given.get("penalty_strength", 1.0), given.get("penalty_epochs", 1)
    _check(0 < strength < float("inf"), "penalty-strength", strength, "a number above 0")
    _check(1 <= epochs <= MOST, "penalty-epochs", epochs, f"1 to {MOST}")
    return given


def _score_flags(pruning: Mapping[str, Any], drawn: dict[str, Any]) -> dict[str, Any]:
    """The fields of learned scores, and the epochs of retraining, that flags give themselves."""
    given = {name: pruning[name] for name in (*_SCORES, "retraining_epochs") if pruning[name] is not None}
    for name, value in given.items():
        learned = pruning["criterion"] == "supermask" or name == "retraining_epochs"
        _check(learned, name.replace("_", "-"), value, "--recipe supermask, which learns scores")
    if pruning["criterion"] == "supermask":
        _check("score_epochs" in drawn | given, "criterion", "supermask", "--recipe supermask, or --score-epochs too")
    epochs, retraining = given.get("score_epochs", 1), given.get("retraining_epochs", 0)
    _check(1 <= epochs <= MOST, "score-epochs", epochs, f"1 to {MOST}")
    _check(0 < given.get("score_rate", 1.0) < float("inf"), "score-rate", given.get("score_rate"), "a number above 0")
    _check(0 <= retraining <= MOST, "retraining-epochs", retraining, f"0 to {MOST}")
    _one_of("sampling", given.get("sampling", "bernoulli"), SAMPLING)
    return given


def _retrain(recipe: Recipe) -> str:
    """The name of a recipe's retraining; its differences from the default where it has no name."""
    for name, chosen in RETRAIN.items():
        wanted = find_recipe("weight_rewinding", **chosen)
        if (recipe.survivors, recipe.final_rate) == (wanted.survivors, wanted.final_rate):
            return name
    return recipe.survivors


def _if_fresh(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A fresh optimizer that is asked for goes before what the recipe says."""
    return {"rewind_optimizer": "fresh"} if fields.get("rewind_optimizer") == "fresh" else {}


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigurationError(f"{name} is {value}; expected {expected}")


def _check_scope(scope: str) -> None:
    try:
        check_scope(scope)
    except ValueError:
        raise ConfigurationError(f"scope is {scope!r}; expected one of {EXPECTED}") from None


def _one_of(name: str, value: str, choices: Collection[str]) -> None:
    _check(value in choices, name, repr(value), f"one of {', '.join(choices)}")
