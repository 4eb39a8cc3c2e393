"""Labelled images in splits, and their batches, which a seed and an epoch determine."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import seeds
from ..storage import states
from .augmentation import Augmentation, normalise, warp
from .images import ImageFiles, stratified

_HASHED_BYTES = 4 << 20  # at once: a contiguous copy of a whole data set would double its memory


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images, and how they are normalised.

    Args:
        images: (N, 3, H, W) uint8 in memory, or files.
        labels: (N,) int64.
        mean, std: per channel, of the whole training set with values scaled to [0, 1].
        files: those that images in memory were decoded from, if they were.

    Example:
        >>> import torch
        >>> from prunecca.data import Split
        >>> images = torch.zeros(5, 3, 32, 32, dtype=torch.uint8)
        >>> split = Split(images, torch.tensor([0, 1, 0, 1, 1]), mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> len(split), split.image_size
        (5, 32)
        >>> [labels.tolist() for _, labels in split.subset(torch.tensor([4, 0, 2])).batches(2)]
        [[1, 0], [0]]
    """

    images: Tensor | ImageFiles
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    files: ImageFiles | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        """The side of the images in pixels."""
        return int(self.images.side if isinstance(self.images, ImageFiles) else self.images.shape[-1])

    def subset(self, index: Tensor) -> Split:
        """The images at ``index`` (n,), in that order."""
        index = index.to(self.labels.device)
        images = self.images.subset(index) if isinstance(self.images, ImageFiles) else self.images[index]
        files = None if self.files is None else self.files.subset(index)
        return replace(self, images=images, labels=self.labels[index], files=files)

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
        """The batches of one epoch.

        Args:
            batch: images in each; the last may have fewer.
            seed: shuffles, and draws the augmentation, together with the epoch alone; None: the images in their order.
            epoch: of the training, from 0.
            augmentation: None gives the images as they are; it needs a seed.
            channels_last: the memory layout of the inputs.

        Raises:
            ValueError: the batch is empty, or there is an augmentation without a seed.
        """
        return Batches(self, batch, seed, epoch, augmentation, channels_last)


@dataclass(frozen=True, eq=False)
class Splits:
    """The data of a problem.

    Args:
        name: of the problem.
        class_names: in the order of the labels.
        train, test: the images to train on, and to test on.
        validation: the images that decide when training stops early.
        held_out: (n,) int64, the sorted indices of the validation images in the whole training set.

    Example:
        >>> from prunecca.data import load
        >>> splits = load("digits2")
        >>> splits.class_names, len(splits.train), len(splits.test), splits.validation
        (('0', '1'), 288, 72, None)
        >>> held = splits.hold_out(0.25, seed=0)
        >>> len(held.train), len(held.validation)
        (216, 72)
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    validation: Split | None = None
    held_out: Tensor | None = None

    @functools.cached_property
    def digest(self) -> str:
        """Identifies labels, statistics and which images validate, then (after a dash) every image in its order.

        Images in memory count by their pixels, files by their content, wherever there is memory to decode them into.
        """
        total = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            if split is not None:
                total.update(_content(split).digest())
        return f"{self._labels_digest()}-{total.hexdigest()}"

    def _labels_digest(self) -> str:
        """All that run directories of earlier versions know of their images."""
        statistics = torch.tensor([self.train.mean, self.train.std], dtype=torch.float64)
        tensors = {"train": self.train.labels, "test": self.test.labels, "statistics": statistics}
        if self.held_out is not None:
            tensors["held_out"] = self.held_out
        return states.digest(tensors)

    def hold_out(self, fraction: float, seed: int = 0) -> Splits:
        """Validate on a part of the training images.

        Args:
            fraction: of each class, between 0 and 1.
            seed: chooses the images alone.

        Raises:
            ValueError: there is a validation split already, the fraction is impossible, or a class has one image only.
        """
        if self.validation is not None:
            raise ValueError(f"{self.name} has a validation split already; hold out from the splits without one")
        if not 0 < fraction < 1:
            raise ValueError(f"fraction is {fraction}; expected a number between 0 and 1")
        labels = self.train.labels.cpu()
        alone = torch.bincount(labels, minlength=len(self.class_names)).eq(1).nonzero().flatten().tolist()
        if alone:
            raise ValueError(
                f"class '{self.class_names[alone[0]]}' of {self.name} has one training image, and a part of each class "
                "validates; give every class at least 2"
            )
        held_out = stratified(labels, fraction, seeds.generator(seed, "validation"))
        kept = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, held_out, False).nonzero().flatten()
        return replace(self, train=self.train.subset(kept), validation=self.train.subset(held_out), held_out=held_out)

    def to(self, device: torch.device | str) -> Splits:
        """The same images on another device."""
        validation = self.validation.to(device) if self.validation is not None else None
        return replace(self, train=self.train.to(device), validation=validation, test=self.test.to(device))


def same_data(one: str, other: str) -> bool:
    """Whether two digests of ``Splits`` are of the same data, as far as both tell: older ones say nothing of the images."""
    return all(a == b for a, b in zip(one.split("-"), other.split("-"), strict=False))


def _content(split: Split) -> hashlib._Hash:
    """A hash of the images in their order, a few megabytes at a time."""
    source = split.files or split.images
    if isinstance(source, ImageFiles):
        total = hashlib.sha256(f"files\0{source.side}\0{len(source)}\0".encode())
        for each in source.digests():
            total.update(each)
        return total
    total = hashlib.sha256(f"pixels\0{tuple(source.shape)}\0".encode())
    for part in torch.split(source, max(1, _HASHED_BYTES // max(1, source[:1].numel()))):
        total.update(part.cpu().contiguous().numpy().data)
    return total


class Batches:
    """The batches of a split, as often as it is iterated the same: inputs (B, 3, H, W) float32, labels (B,) int64.

    Args:
        split: the images.
        batch, seed, epoch, augmentation, channels_last: see ``Split.batches``.

    Raises:
        ValueError: the batch is empty, or there is an augmentation without a seed.

    Example:
        >>> from prunecca.data import Augmentation, load
        >>> batches = load("digits2").train.batches(128, seed=0, epoch=3, augmentation=Augmentation())
        >>> [(tuple(inputs.shape), len(labels)) for inputs, labels in batches]
        [((128, 3, 32, 32), 128), ((128, 3, 32, 32), 128), ((32, 3, 32, 32), 32)]
    """

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
        return self.after(0)

    @functools.cached_property
    def drawn(self) -> tuple[Tensor, Tensor | None]:
        """Where the images are of all batches, (N,) int64, and their maps, (N, 2, 3); on the device of the labels."""
        split, count, device = self.split, len(self.split), self.split.labels.device
        order = torch.arange(count)
        if self.seed is not None:
            order = torch.randperm(count, generator=seeds.generator(self.seed, "order", self.epoch))
        maps: Tensor | None = None
        if self.augmentation is not None and self.seed is not None:
            side = split.image_size
            maps = self.augmentation.draw(count, side, side, seeds.generator(self.seed, "augmentation", self.epoch))
            maps = maps.to(device)
        return order.to(device), maps

    def after(self, done: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches that remain when ``done`` of them were taken elsewhere."""
        order, maps = self.drawn
        chunks = torch.split(order, self.batch)[done:]
        for number, (chunk, (images, index)) in enumerate(zip(chunks, self._located(chunks), strict=True), start=done):
            first = number * self.batch
            own = None if maps is None else maps[first : first + len(chunk)]
            yield self._inputs(images, index, own), self.split.labels[chunk]

    def at(self, chunk: Tensor, maps: Tensor | None) -> tuple[Tensor, Tensor]:
        """One batch of images in memory.

        Args:
            chunk: (B,) int64, a part of what ``drawn`` gives.
            maps: (B, 2, 3), the same part of its maps; None where it has none.
        """
        (located,) = self._located([chunk])
        return self._inputs(*located, maps), self.split.labels[chunk]

    def _inputs(self, images: Tensor, index: Tensor, maps: Tensor | None) -> Tensor:
        split, last = self.split, self.channels_last
        if maps is None:
            return normalise(images[index], split.mean, split.std, channels_last=last)
        return warp(images, index, maps, split.mean, split.std, channels_last=last)

    def _located(self, chunks: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each chunk of indices: images in memory, and where among them those of the chunk are."""
        images, device = self.split.images, self.split.labels.device
        if isinstance(images, ImageFiles):
            for decoded in images.stream(chunks):
                yield decoded.to(device), torch.arange(len(decoded), device=device)
        else:
            for chunk in chunks:
                yield images, chunk
