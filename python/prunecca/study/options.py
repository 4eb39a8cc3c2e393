"""What a study does: every option, its default, and the rule that two configurations never mix in one run directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError

FORMAT = 1

SHORT_EPOCHS = 10
SHORT_LEVELS = 5
PAPER_LEVELS = 20


@dataclass(frozen=True)
class Options:
    """Everything that decides the numbers of a study, apart from the problems themselves.

    Where the paper (Ansuini et al. 2020) names a value, it is the default; where it is silent, the default is what the
    comments say. `epochs`, `conv_rate`, `fc_rate` and `patience` are the problem's own when None.
    """

    seed: int = 0
    epochs: int | None = None  # T: epochs of the unpruned network; a pruned one trains the T - rewind_epoch that remain
    rewind_epoch: int = 3  # k: levels restart from the end of this epoch; 0 is the initialisation
    rewind_optimizer: str = "restore"  # "restore" the moments and step of epoch k, or begin with a "fresh" optimizer
    prune_output_layer: bool = False
    conv_rate: float | None = None
    fc_rate: float | None = None
    criterion: str = "large_final"
    scope: str = "pool"  # entries compete within their pool (conv, fc), within their "layer", or all together: "global"
    # From where a pruned network is trained. "rewind": all of the state of epoch k. "lr_rewind" (Renda et al. 2020): the
    # trained weights, with the schedule and optimizer of epoch k. "finetune" (Han et al. 2015): the trained weights, a fresh
    # optimizer and a tenth of the learning rate. "reinit": new random weights, trained for all T epochs.
    retrain: str = "rewind"
    # What a pruned entry holds from then on (Zhou et al. 2019): "zero"; "frozen", its value at the restart; or "by_movement",
    # zero where training had brought it nearer to zero than it was initially, otherwise frozen.
    pruned_value: str = "zero"
    one_shot: bool = False  # one pruning straight to the density of each level, from the unpruned network
    dropout: float | None = None  # None: the architecture's own, 0.5 in the paper's networks
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    batch_size: int | None = None
    patience: int | None = None
    image_size: int | None = None  # of images from a folder; the others are 32 pixels wide
    train_images: int | None = None  # None: all of them
    images: int = 5000  # random training images, not augmented, on which the layers are compared
    metrics: tuple[str, ...] = ("svcca", "cca", "pwcca", "linear_cka", "debiased_cka", "nbs", "procrustes")
    variance: float = 0.99
    trim: float | None = (
        None  # None: the mean over all correlations, as in the paper's text; 0.98: as its implementation
    )
    dimension_images: int = (
        1000  # of `images`, on which the intrinsic dimension of the layers is estimated; 0: it is not
    )
    layers: tuple[str, ...] | None = None  # None: after every convolution, pooling and hidden linear layer

    def __post_init__(self) -> None:
        _check(self.epochs is None or self.epochs >= 1, "epochs", self.epochs, "a positive number")
        _check(self.rewind_epoch >= 0, "rewind-epoch", self.rewind_epoch, "0 or more")
        _one_of("rewind-optimizer", self.rewind_optimizer, ("restore", "fresh"))
        _one_of("pruned-value", self.pruned_value, ("zero", "frozen", "by_movement"))
        _one_of("scope", self.scope, ("pool", "layer", "global"))
        _one_of("retrain", self.retrain, ("rewind", "lr_rewind", "finetune", "reinit"))
        for name, rate in (("conv-rate", self.conv_rate), ("fc-rate", self.fc_rate)):
            _check(rate is None or 0 <= rate < 1, name, rate, "a fraction from 0 up to, not including, 1")
        _check(self.dropout is None or 0 <= self.dropout < 1, "dropout", self.dropout, "a probability in [0, 1)")
        _check(self.learning_rate > 0, "learning-rate", self.learning_rate, "a positive number")
        _check(self.weight_decay >= 0, "weight-decay", self.weight_decay, "0 or more")
        _check(self.batch_size is None or self.batch_size >= 2, "batch-size", self.batch_size, "2 or more")
        _check(self.patience is None or self.patience >= 1, "patience", self.patience, "a positive number")
        _check(self.image_size is None or self.image_size >= 8, "image-size", self.image_size, "8 or more pixels")
        _check(self.train_images is None or self.train_images >= 2, "train-images", self.train_images, "2 or more")
        _check(self.images >= 2, "images", self.images, "2 or more")
        _check(self.dimension_images >= 0, "dimension-images", self.dimension_images, "0 or more")
        _check(0 < self.variance <= 1, "variance", self.variance, "a fraction in (0, 1]")
        _check(self.trim is None or 0 < self.trim <= 1, "trim", self.trim, "a fraction in (0, 1]")
        _check(len(self.metrics) > 0, "metrics", "empty", "at least one, such as svcca")

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
        """The options written by `as_json`."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Size:
    """How much of a problem is done. It decides no number of a finished piece, so a study may grow."""

    levels: int = SHORT_LEVELS
    replicates: int = 1
    controls: int = (
        1  # networks retrained from epoch k without pruning, with the seeds of replicate 0, levels 1, 2, ...
    )

    def __post_init__(self) -> None:
        _check(self.levels >= 0, "levels", self.levels, "0 or more")
        _check(self.replicates >= 1, "replicates", self.replicates, "1 or more")
        _check(self.controls >= 0, "controls", self.controls, "0 or more")

    def merged(self, other: Size) -> Size:
        """The larger of both, number by number."""
        return Size(*(max(a, b) for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


def merge_configuration(old: Mapping[str, Any] | None, new: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The configuration of a run directory after `new` is asked for in it.

    Both have the keys ``format``, ``options`` and ``problems``: name -> {``size``, ``settings``}. A study may grow in problems, levels,
    replicates and controls; everything else must be equal.

    Raises:
        ConfigurationError: an option differs; the sentence names it with both values.
    """
    if old is None:
        return dict(new)
    if old.get("format") != new["format"]:
        raise ConfigurationError(
            f"{where} was made by another version (format {old.get('format')}, this one writes {new['format']}); "
            "choose another --out"
        )
    _compare(old["options"], new["options"], where, "")
    problems = dict(old["problems"])
    for name, problem in new["problems"].items():
        if name in problems:
            _compare(problems[name]["settings"], problem["settings"], where, f" for {name}")
            size = Size(**problems[name]["size"]).merged(Size(**problem["size"]))
            problem = {"size": dataclasses.asdict(size), "settings": problem["settings"]}
        problems[name] = problem
    return {"format": old["format"], "options": old["options"], "problems": problems}


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], where: str, whose: str) -> None:
    for key in [*new, *(key for key in old if key not in new)]:
        if old.get(key) != new.get(key):
            option = key.replace("_", "-")
            raise ConfigurationError(
                f"{where} was made with {option} = {_show(old.get(key))}{whose}, and now {option} = {_show(new.get(key))} is asked for; "
                "choose another --out, or the old value to continue"
            )


def _show(value: object) -> str:
    if value is None:
        return "(default)"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigurationError(f"{name} is {value}; expected {expected}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, name, repr(value), f"one of {', '.join(choices)}")
