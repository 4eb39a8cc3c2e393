"""The data of a problem by its name, and the images on which layers are compared."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from .. import seeds
from ..problems import Problem, find_problem
from . import cifar10, digits, image_folder
from .images import ImageFiles
from .splits import Batches, Split, Splits


def load(
    problem: str | Problem,
    folder: str | os.PathLike[str] | None = None,
    *,
    image_size: int | None = None,
    validation_seed: int = 0,
) -> Splits:
    """The training, validation (where the problem asks for it) and test images of a problem.

    Nothing is downloaded.

    Args:
        problem: a problem, or the name of one.
        folder: of CIFAR-10's python batches, or of images in the layout of ImageNet; None: the variable
            ``PRUNECCA_DATA``. The digits need none.
        image_size: side of images from a folder in pixels; None: 224.
        validation_seed: chooses the validation images.

    Raises:
        FileNotFoundError: the folder, or a file in it, is missing.
        ValueError: there is no such problem, or a file is wrong or corrupt.

    Example:
        >>> from prunecca.data import load
        >>> splits = load("digits4")
        >>> inputs, labels = next(iter(splits.test.batches(10)))
        >>> inputs.shape, inputs.dtype, labels.shape
        (torch.Size([10, 3, 32, 32]), torch.float32, torch.Size([10]))
    """
    chosen = find_problem(problem) if isinstance(problem, str) else problem
    if chosen.dataset == "digits":
        train, test, names = digits.read_digits(chosen.classes)
    else:
        found = _folder(chosen.name, folder)
        if chosen.dataset == "cifar10" or cifar10.find_cifar10(found) is not None:
            train, test, names = cifar10.read_cifar10(found, chosen.classes)
        else:
            train, test, names = image_folder.read_image_folder(found, image_size or 224)
    mean, std = _statistics(train.images)
    splits = Splits(
        name=chosen.name,
        class_names=names,
        train=Split(train.images, train.labels, mean, std, train.files),
        test=Split(test.images, test.labels, mean, std, test.files),
    )
    return splits.hold_out(chosen.validation, validation_seed) if chosen.validation else splits


def representation_subset(
    split: Split, count: int = 5000, seed: int = 0, *, batch: int = 500, channels_last: bool = True
) -> Batches:
    """The images on which layers are compared: normalised, never augmented, always in the same order.

    Args:
        split: the training images.
        count: how many random ones; all, if there are fewer.
        seed: chooses them.
        batch: images in each batch.
        channels_last: the layout in which networks and covariances are faster on a CPU; the values are the same.

    Raises:
        ValueError: the count is less than 1.

    Example:
        >>> from prunecca.data import load, representation_subset
        >>> images = representation_subset(load("digits4").train, 100, batch=40)
        >>> [len(labels) for _, labels in images]
        [40, 40, 20]
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1 image")
    order = torch.randperm(len(split), generator=seeds.generator(seed, "representation"))
    return split.subset(order[:count]).batches(batch, channels_last=channels_last)


def _folder(problem: str, folder: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    given = folder if folder is not None else os.environ.get("PRUNECCA_DATA")
    if not given:
        raise ValueError(f"{problem} needs images: give their folder with --data or in the variable PRUNECCA_DATA")
    if not os.path.isdir(given):
        raise FileNotFoundError(f"{os.fspath(given)} is not a folder; give the folder of the images of {problem}")
    return given


def _statistics(images: Tensor | ImageFiles, sample: int = 2048) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of values in [0, 1]: exact in memory, of a fixed random sample of files."""
    if isinstance(images, ImageFiles):
        order = torch.randperm(len(images), generator=seeds.generator(0, "statistics"))[:sample]
        images = torch.cat(list(images.stream(torch.split(order, 64))))
    pixels = images.numel() // images.shape[1]
    total = images.sum(dim=(0, 2, 3), dtype=torch.int64).double()
    parts = torch.split(images, max(1, 2**22 // images[0].numel()))  # squares take four times the memory
    squares = torch.stack([part.int().square().sum(dim=(0, 2, 3)) for part in parts]).sum(0).double()
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp(min=0).sqrt().clamp(min=1.0)  # constant channels: one grey level
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
