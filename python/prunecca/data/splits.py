"""Labelled images in splits, and their batches, which a seed and an epoch determine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import seeds
from ..storage import states
from . import images
from .augmentation import Augmentation, normalise, warp
from .images import ImageFiles


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images: uint8 (N, 3, H, W) in memory or files, labels int64 (N,), and how they are normalised.

    mean, std: per channel, of the whole training set with values scaled to [0, 1].
    """

    images: Tensor | ImageFiles
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        return int(self.images.side if isinstance(self.images, ImageFiles) else self.images.shape[-1])

    def subset(self, index: Tensor) -> Split:
        """The images at ``index`` (n,), in that order."""
        index = index.to(self.labels.device)
        images = self.images.subset(index) if isinstance(self.images, ImageFiles) else self.images[index]
        return replace(self, images=images, labels=self.labels[index])

    def to(self, device: torch.device | str) -> Split:
        """The same images on another device; files stay files, and their batches come on the device of the labels."""
        images = self.images if isinstance(self.images, ImageFiles) else self.images.to(device)
        return replace(self, images=images, labels=self.labels.to(device))

    def batches(
        self,
        batch: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        augmentation: Augmentation | None = None,
        channels_last: bool = False,
    ) -> Batches:
        """Batches (inputs float32, labels). With a seed: shuffled, and augmented if asked, by (seed, epoch) alone."""
        return Batches(self, batch, seed, epoch, augmentation, channels_last)


@dataclass(frozen=True, eq=False)
class Splits:
    """The data of a problem; ``digest`` identifies images, classes and which of them validate."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    validation: Split | None = None
    held_out: Tensor | None = None  # sorted indices of the validation images in the whole training set

    @property
    def digest(self) -> str:
        statistics = torch.tensor([self.train.mean, self.train.std], dtype=torch.float64)
        tensors = {"train": self.train.labels, "test": self.test.labels, "statistics": statistics}
        if self.held_out is not None:
            tensors["held_out"] = self.held_out
        return states.digest(tensors)

    def hold_out(self, fraction: float, seed: int = 0) -> Splits:
        """Validate on a random ``fraction`` of each class, taken from the training images; the seed alone chooses them."""
        if self.validation is not None:
            raise ValueError(f"{self.name} has a validation split already; hold out from the splits without one")
        if not 0 < fraction < 1:
            raise ValueError(f"fraction is {fraction}; expected a number between 0 and 1")
        labels = self.train.labels.cpu()
        held_out = images.stratified(labels, fraction, seeds.generator(seed, "validation"))
        kept = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, held_out, False).nonzero().flatten()
        return replace(self, train=self.train.subset(kept), validation=self.train.subset(held_out), held_out=held_out)

    def to(self, device: torch.device | str) -> Splits:
        validation = self.validation.to(device) if self.validation is not None else None
        return replace(self, train=self.train.to(device), validation=validation, test=self.test.to(device))


class Batches:
    """The batches of a split, as often as it is iterated the same: (inputs float32 (B, 3, H, W), labels (B,))."""

    def __init__(
        self,
        split: Split,
        batch: int,
        seed: int | None,
        epoch: int,
        augmentation: Augmentation | None,
        channels_last: bool,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch is {batch}; expected at least 1 image")
        if augmentation is not None and seed is None:
            raise ValueError("augmentation needs a seed; without one, images are given as they are")
        self.split = split
        self.batch = batch
        self.seed = seed
        self.epoch = epoch
        self.augmentation = augmentation
        self.channels_last = channels_last

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        split, count, device = self.split, len(self.split), self.split.labels.device
        order = torch.arange(count)
        if self.seed is not None:
            order = torch.randperm(count, generator=seeds.generator(self.seed, "order", self.epoch))
        maps: Tensor | None = None
        if self.augmentation is not None and self.seed is not None:
            side = split.image_size
            maps = self.augmentation.draw(count, side, side, seeds.generator(self.seed, "augmentation", self.epoch))
            maps = maps.to(device)
        order = order.to(device)
        chunks = torch.split(order, self.batch)
        decoded = split.images.stream(chunks) if isinstance(split.images, ImageFiles) else None
        for number, chunk in enumerate(chunks):
            if decoded is not None:
                images, index = next(decoded).to(device), torch.arange(len(chunk), device=device)
            else:
                assert isinstance(split.images, Tensor)
                images, index = split.images, chunk
            if maps is None:
                inputs = normalise(images[index], split.mean, split.std, channels_last=self.channels_last)
            else:
                drawn = maps[number * self.batch : number * self.batch + len(chunk)]
                inputs = warp(images, index, drawn, split.mean, split.std, channels_last=self.channels_last)
            yield inputs, split.labels[chunk]
