"""A problem as a study does it, with the study's options in the place of the problem's own values."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..activations.layers import find_layers
from ..data.loading import load
from ..data.splits import Split, Splits, same_data
from ..errors import ConfigurationError
from ..machine.memory import give_back
from ..models import build
from ..problems import Problem, find_problem
from ..pruning.recipe import Recipe
from ..seeds import seed_for
from ..similarity.registry import find_metrics
from ..storage.state_dicts import Misfit
from ..storage.weights import read_checkpoint
from ..training.evaluation import Precision
from ..training.precision import step_seconds
from .options import SHORT_EPOCHS, Options
from .schema import check_settings

_FIELDS = [field.name for field in dataclasses.fields(Problem)]
_TIMED_IMAGES = 64  # of a step that is timed
_SIDE = 32  # in pixels, of all images but those of a folder


@dataclass(frozen=True)
class ResolvedProblem:
    """A problem with its number of classes, image size, epochs, rates and precision settled, and the digest of its data."""

    problem: Problem
    image_size: int
    train_images: int | None
    test_images: int | None
    data: str
    precision: Precision = "float32"

    def as_json(self) -> dict[str, Any]:
        """One flat dictionary of plain values; what `schema.merge_configuration` compares."""
        settled = dataclasses.asdict(self)
        return {**settled.pop("problem"), **settled}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ResolvedProblem:
        """The problem written by `as_json`."""
        own = [field.name for field in dataclasses.fields(cls) if field.name != "problem"]
        check_settings(value, "the settings of a problem")
        missing = [name for name in own if name not in value]
        if missing:
            raise ConfigurationError(f"the settings of a problem lack {missing[0]}; expected those of this version")
        settings = {name: item for name, item in value.items() if name not in own}
        odd = [name for name in settings if name not in _FIELDS]
        if odd:
            raise ConfigurationError(f"the settings of a problem have {odd[0]!a}; expected only those of this version")
        problem, known = Problem(**settings), find_problem(settings["name"])
        # The sizes of the network are those of the problem, so that no file of others can make it fill the memory.
        for name in ("dataset", "conv", "fc", "network"):
            _expect_same(problem.name, name, getattr(problem, name), getattr(known, name))
        if problem.dataset != "any":
            _expect_same(problem.name, "image_size", value["image_size"], _SIDE)
        return cls(problem, **{name: value[name] for name in own})

    def recipe(self, options: Options, seed: int = 0) -> Recipe:
        """The recipe of the options with the rates and epochs of this problem, and a seed for what it draws."""
        return dataclasses.replace(
            options.recipe, rates=dict(self.problem.rates), epochs=self.problem.epochs, seed=seed
        )

    def splits(self, data: str | os.PathLike[str] | None) -> Splits:
        """The images.

        Raises:
            ConfigurationError: they are not those the run directory was made with.
        """
        splits = _load(self.problem, _place(data), self.image_size, self.train_images, self.test_images)
        if not same_data(self.data, splits.digest):
            raise ConfigurationError(
                f"the images of {self.problem.name} are not those this run directory was made with; "
                "give the same --data, or another --out"
            )
        return splits

    def build(self, options: Options, *draw: object) -> nn.Module:
        """The network before training, on the CPU; each `draw` gives another initialisation, none that of level 0."""
        seed = seed_for(options.seed, self.problem.name, "initial", *draw)
        return build(self.problem, self.problem.classes, options.dropout, image_size=self.image_size, seed=seed)


def resolve(
    name: str,
    options: Options,
    data: str | os.PathLike[str] | None = None,
    *,
    short: bool = True,
) -> ResolvedProblem:
    """A problem with the options applied; everything that can be found impossible before training is found here.

    Args:
        name: of the problem.
        options: of the study.
        data: folder of the images.
        short: at most `SHORT_EPOCHS` epochs where the options do not say how many.

    Returns:
        The problem; the precision ``"auto"`` is float32 until ``with_faster_precision`` has measured it.

    Raises:
        ValueError: unknown problem, metric or layer, damaged images, options that exclude each other.
        FileNotFoundError: images that are not there.
    """
    find_metrics(options.metrics)
    problem = find_problem(name)
    epochs = options.epochs or (min(SHORT_EPOCHS, problem.epochs) if short else problem.epochs)
    if options.recipe.rewind_epoch >= epochs:
        raise ConfigurationError(
            f"rewind-epoch is {options.recipe.rewind_epoch}; expected less than the {epochs} epochs of {name}, of which the rest is trained"
        )
    given = {"conv": options.conv_rate, "fc": options.fc_rate}
    rates = {pool: problem.rates[pool] if rate is None else rate for pool, rate in given.items()}
    if options.recipe.scope == "global" and len(set(rates.values())) > 1:
        raise ConfigurationError(
            f"scope global has one rate, and {name} has {rates['conv']} for conv and {rates['fc']} for fc; "
            "give --conv-rate and --fc-rate the same value"
        )
    problem = dataclasses.replace(
        problem,
        epochs=epochs,
        rates=rates,
        batch=options.batch_size or problem.batch,
        patience=options.patience or problem.patience,
        validation=problem.validation or (0.1 if options.patience else 0.0),
    )
    splits = _load(problem, _place(data), options.image_size, options.train_images, options.test_images)
    problem = dataclasses.replace(problem, classes=len(splits.class_names))
    precision: Precision = "bfloat16" if options.precision == "bfloat16" else "float32"
    images = options.train_images, options.test_images
    resolved = ResolvedProblem(problem, splits.train.image_size, *images, splits.digest, precision)
    if options.layers is not None or problem.network is not None:
        _try_out(resolved, options)
    return resolved


def with_faster_precision(
    problem: ResolvedProblem,
    options: Options,
    data: str | os.PathLike[str] | None,
    device: str,
    message: Callable[[str], None],
) -> ResolvedProblem:
    """The problem with the precision in which a training step on ``device`` takes less time; ``message`` is told why."""
    train = problem.splits(data).train
    place, batch = torch.device(device), problem.problem.batch
    few = min(batch, _TIMED_IMAGES) if place.type == "cpu" else batch  # a GPU has room for all of them at once
    inputs, labels = next(iter(train.batches(few, channels_last=True)))
    seconds = step_seconds(problem.build(options).to(place), inputs.to(place), labels.to(place))
    give_back(place)
    chosen = min(seconds, key=lambda name: seconds[name])
    times = " and ".join(f"{1e3 * value:.3g} ms in {name}" for name, value in seconds.items())
    message(f"{problem.problem.name}: a training step of {len(labels)} images takes {times}; {chosen} is chosen")
    return dataclasses.replace(problem, precision=chosen)


def load_network(
    path: Path, problem: str | None = None, data: str | os.PathLike[str] | None = None
) -> tuple[ResolvedProblem, nn.Module]:
    """The problem and network of a state of a run directory, or of any file of weights that people have.

    Args:
        path: see ``storage.weights.read_checkpoint``; nothing in it is unpickled but tensors and plain values.
        problem: what the network was trained for; None where the file says it.
        data: folder of the images, where the file does not say what they were.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: it is no file of weights, or damaged.
        ConfigurationError: it does not say whose network it is, or is not that of ``problem``.
        ValueError: it holds no weights, or several networks; the sentence lists them.
    """
    checkpoint = read_checkpoint(path)
    metadata = checkpoint.metadata
    name = problem or metadata.get("problem")
    if not isinstance(name, str):
        raise ConfigurationError(
            f"{path} does not say whose network it is; give --problem, such as cifar2, or for a network of your own "
            "--model package.module:make and --loader"
        )
    if "setting" in metadata and metadata["problem"] == name:
        resolved = ResolvedProblem.from_json(metadata["setting"])
    else:
        resolved = resolve(name, Options(), data)
    model = resolved.build(Options())
    shapes = {
        key: value.shape if isinstance(value, torch.Tensor) else None for key, value in model.state_dict().items()
    }
    try:
        state = checkpoint.state(shapes, f"the network of {name}")
    except Misfit as error:
        raise ConfigurationError(f"{error}; give the right --problem") from None
    model.load_state_dict(state.tensors, strict=False)  # it was checked; only what older files lack may be missing
    return resolved, model


def _expect_same(problem: str, name: str, given: object, known: object) -> None:
    if given != known:
        raise ConfigurationError(f"{name} of {problem} is {given!a:.60}; expected {known!r}")


def _try_out(resolved: ResolvedProblem, options: Options) -> None:
    """Run the network once, to find its layers."""
    side = resolved.image_size
    try:
        find_layers(resolved.build(options).eval(), torch.zeros(2, 3, side, side), options.layers)
    except RuntimeError as error:
        raise ConfigurationError(
            f"{resolved.problem.name} cannot take images of {side} x {side} pixels ({error}); "
            "choose another network, or for a folder of images a larger --image-size"
        ) from error


def _place(data: str | os.PathLike[str] | None) -> str | None:
    return os.environ.get("PRUNECCA_DATA") or None if data is None else os.fspath(data)


@functools.lru_cache(maxsize=1)  # the same problem is asked for again and again, and its images fill memory
def _load(
    problem: Problem, data: str | None, image_size: int | None, train_images: int | None, test_images: int | None
) -> Splits:
    splits = load(problem, data, image_size=image_size)
    return dataclasses.replace(splits, train=_some(splits.train, train_images), test=_some(splits.test, test_images))


def _some(split: Split, count: int | None) -> Split:
    """Random images of a split, always the same; all of them where there are no more."""
    if count is None or count >= len(split):
        return split
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    return split.subset(order[:count].sort().values)
