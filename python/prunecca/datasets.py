"""Labelled images read from where they lie: CIFAR-10's python batches, scikit-learn's digits, folders of images.

Every reader returns ``Labelled`` training and test images with the same classes. Nothing is downloaded.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import seeds

# The order in which the paper's problems take the classes of CIFAR-10 (Table 1; its second "dog" read as frog).
CIFAR10_CLASSES = ("automobile", "truck", "airplane", "ship", "cat", "dog", "deer", "horse", "bird", "frog")
_CIFAR10_FOLDER = "cifar-10-batches-py"
_DIGITS_TEST_FRACTION = 0.2


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images (uint8 (N, 3, H, W) in memory, or files) with their labels (int64 (N,)), indices into the class names."""

    images: Tensor | ImageFiles
    labels: Tensor


def read_cifar10(folder: str | os.PathLike[str], classes: int = 10) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Training and test images of the first ``classes`` of ``CIFAR10_CLASSES``: 5000 and 1000 of each, 32 x 32.

    folder: the one that holds ``cifar-10-batches-py``, or that one itself. The files are pickles, so each is unpickled
    only after its MD5 has been found right. ``FileNotFoundError`` or ``ValueError`` says which file is missing or
    corrupt.
    """
    from torchvision.datasets import CIFAR10

    if not 2 <= classes <= len(CIFAR10_CLASSES):
        raise ValueError(f"classes is {classes}; CIFAR-10 has subsets of 2 to {len(CIFAR10_CLASSES)} classes")
    root = find_cifar10(folder)
    if root is None:
        raise FileNotFoundError(
            f"{os.fspath(folder)} does not hold {_CIFAR10_FOLDER}; give the folder into which "
            f"cifar-10-python.tar.gz was unpacked"
        )
    halves = []
    for train in (True, False):
        try:
            whole = CIFAR10(root, train=train, download=False)
        except RuntimeError as error:
            raise _explain_cifar10(root) from error
        wanted = torch.tensor([CIFAR10_CLASSES.index(name) for name in whole.classes])  # official label -> ours
        labels = wanted[torch.tensor(whole.targets)]
        chosen = torch.nonzero(labels < classes).flatten()
        images = torch.from_numpy(np.ascontiguousarray(whole.data[chosen.numpy()].transpose(0, 3, 1, 2)))
        halves.append(Labelled(images, labels[chosen]))
    return halves[0], halves[1], CIFAR10_CLASSES[:classes]


def find_cifar10(folder: str | os.PathLike[str]) -> Path | None:
    """The folder that holds ``cifar-10-batches-py``, given that folder, this one or one above; None when there is none."""
    given = Path(folder)
    if given.resolve().name == _CIFAR10_FOLDER and given.is_dir():
        return given.resolve().parent
    below = sorted(given.glob(f"*/{_CIFAR10_FOLDER}/")) if given.is_dir() else []
    return next((root for root in (given, *(path.parent for path in below)) if (root / _CIFAR10_FOLDER).is_dir()), None)


def read_digits(classes: int = 10, side: int = 32) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """scikit-learn's handwritten digits below ``classes``: 8 x 8, resized to ``side`` x ``side``, in three equal channels.

    A fixed fifth of each class is the test set.
    """
    from sklearn.datasets import load_digits

    if not 2 <= classes <= 10:
        raise ValueError(f"classes is {classes}; there are 2 to 10 digits to choose")
    digits: Any = load_digits()
    labels = torch.from_numpy(digits.target).long()
    small = torch.from_numpy(digits.images)[:, None] * (255 / 16)
    images = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)
    images = images.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)
    test = stratified(labels, _DIGITS_TEST_FRACTION, seeds.generator(0, "digits test set"))
    is_test = torch.zeros(len(labels), dtype=torch.bool).index_fill_(0, test, True)
    train, held_out = (
        Labelled(images[chosen].contiguous(), labels[chosen])
        for chosen in ((labels < classes) & ~is_test, (labels < classes) & is_test)
    )
    return train, held_out, tuple(str(digit) for digit in range(classes))


def read_image_folder(
    folder: str | os.PathLike[str], side: int = 224, memory_limit: int | None = None
) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Images in the layout of ImageNet: ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg`` (or ``test/``), any image format.

    Each is scaled so that its shorter side is ``side`` pixels and its centre is taken. A half that takes no more than
    ``memory_limit`` bytes (default: a quarter of the machine's memory) is decoded once into memory, otherwise each time
    it is needed. ``FileNotFoundError`` or ``ValueError`` says what is missing or does not fit.
    """
    from torchvision.datasets import ImageFolder

    root = Path(folder)
    places = [root / "train", next((root / name for name in ("val", "test") if (root / name).is_dir()), root / "val")]
    found = []
    for place in places:
        if not place.is_dir():
            raise FileNotFoundError(
                f"{root} has no folder {place.name}; expected train/CLASS/image and val/CLASS/image in it"
            )
        try:
            found.append(ImageFolder(place))
        except FileNotFoundError as error:
            raise ValueError(_explain_image_folder(place)) from error
    if found[0].classes != found[1].classes:
        odd = sorted(set(found[0].classes) ^ set(found[1].classes))
        raise ValueError(
            f"{places[0]} and {places[1]} differ in their classes ({', '.join(odd[:5])}); expected the same folders in both"
        )
    if len(found[0].classes) < 2:
        raise ValueError(f"{places[0]} has only the class {found[0].classes[0]}; expected at least 2 classes")
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4 if memory_limit is None else memory_limit
    halves = []
    for listing in found:
        files = ImageFiles([path for path, _ in listing.samples], side)
        images: Tensor | ImageFiles = files
        if 3 * side * side * len(files) <= limit:
            images = torch.empty((len(files), 3, side, side), dtype=torch.uint8)
            chunks = torch.split(torch.arange(len(files)), 256)
            for chunk, decoded in zip(chunks, files.stream(chunks), strict=True):
                images[chunk] = decoded
        halves.append(Labelled(images, torch.tensor([label for _, label in listing.samples])))
    return halves[0], halves[1], tuple(found[0].classes)


class ImageFiles:
    """Images on disk as uint8 tensors (N, 3, side, side), decoded by a few threads ahead of their use."""

    def __init__(self, paths: Sequence[str], side: int) -> None:
        self.paths = list(paths)
        self.side = side

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, index: Tensor) -> ImageFiles:
        return ImageFiles([self.paths[i] for i in index.tolist()], self.side)

    def stream(self, chunks: Iterable[Tensor], ahead: int = 2) -> Iterator[Tensor]:
        """The images of each chunk of indices (n,) as uint8 (n, 3, side, side), decoded ``ahead`` chunks early."""
        pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
        pending: deque[list[Future[Tensor]]] = deque()
        try:
            for chunk in chunks:
                pending.append([pool.submit(self._decode, self.paths[i]) for i in chunk.tolist()])
                if len(pending) > ahead:
                    yield torch.stack([image.result() for image in pending.popleft()])
            while pending:
                yield torch.stack([image.result() for image in pending.popleft()])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, path: str) -> Tensor:
        from PIL import Image, ImageOps

        try:
            with Image.open(path) as image:
                fitted = ImageOps.fit(image.convert("RGB"), (self.side, self.side), Image.Resampling.BILINEAR)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds for a file that is not what it seems
            raise ValueError(f"{path} cannot be read as an image: {error}; replace or remove it") from error
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def stratified(labels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Sorted indices of a random ``fraction`` of each class (rounded, at least one)."""
    chosen = []
    for label in torch.unique(labels).tolist():
        members = torch.nonzero(labels == label).flatten()
        count = max(1, round(fraction * len(members)))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values


def _explain_image_folder(place: Path) -> str:
    """What torchvision did not find: classes, or the images of some."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    kinds = ", ".join(IMG_EXTENSIONS)
    classes = sorted(entry for entry in place.iterdir() if entry.is_dir())
    if not classes:
        return f"{place} has no classes; expected a folder of images ({kinds}) for each class in it"
    empty = [folder for folder in classes if not any(f.suffix.lower() in IMG_EXTENSIONS for f in folder.rglob("*"))]
    return f"{', '.join(map(str, empty[:5]))} holds no images; expected files that end in {kinds}, or no such folder"


def _explain_cifar10(root: Path) -> Exception:
    """torchvision says only that something is wrong; find which file it is."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    for name, md5 in [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]:
        path = root / _CIFAR10_FOLDER / name
        if not path.is_file():
            return FileNotFoundError(f"{path} is missing; unpack cifar-10-python.tar.gz again")
        if not check_integrity(path, md5):
            return ValueError(f"{path} is corrupt: its MD5 is not {md5}; unpack cifar-10-python.tar.gz again")
    return ValueError(f"{root} changed while it was read; try again")
