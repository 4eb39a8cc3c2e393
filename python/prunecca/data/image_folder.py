"""Folders of images in the layout of ImageNet."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from .images import ImageFiles, Labelled


def read_image_folder(
    folder: str | os.PathLike[str], side: int = 224, memory_limit: int | None = None
) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Images in the layout of ImageNet: ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg`` (or ``test/``), any image format.

    Args:
        folder: the one that holds ``train``.
        side: each image is scaled so that its shorter side is so many pixels, and its centre is taken.
        memory_limit: a half that takes no more bytes is decoded once into memory, otherwise each time it is needed;
            None: a quarter of the machine's memory.

    Returns:
        Training images, test images, and the names of the classes.

    Raises:
        FileNotFoundError: a half is missing.
        ValueError: an image cannot be read, a link leads in a circle, or the halves do not fit together.
    """
    from torchvision.datasets import ImageFolder

    root = Path(folder)
    train = root / "train"
    test = next((root / name for name in ("val", "test") if (root / name).is_dir()), root / "val")
    found = []
    for half in (train, test):
        if not half.is_dir():
            raise FileNotFoundError(
                f"{root} has no folder {half.name}; expected train/CLASS/image and val/CLASS/image in it"
            )
        _check_links(half, ())
        try:
            found.append(ImageFolder(half))
        except FileNotFoundError as error:
            raise ValueError(_explain_image_folder(half)) from error
    if found[0].classes != found[1].classes:
        odd = sorted(set(found[0].classes) ^ set(found[1].classes))
        raise ValueError(
            f"{train} and {test} differ in their classes ({', '.join(odd[:5])}); expected the same folders in both"
        )
    if len(found[0].classes) < 2:
        raise ValueError(f"{train} has only the class {found[0].classes[0]}; expected at least 2 classes")
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
        halves.append(Labelled(images, torch.tensor([label for _, label in listing.samples]), files))
    return halves[0], halves[1], tuple(found[0].classes)


def _check_links(folder: str | os.PathLike[str], above: tuple[tuple[int, int], ...]) -> None:
    """Refuse a link to a folder that it lies in: torchvision follows it without end."""
    found = os.stat(folder)
    here = (found.st_dev, found.st_ino)
    if here in above:
        raise ValueError(f"{os.fspath(folder)} is a link to a folder that it lies in; remove the link")
    with os.scandir(folder) as entries:
        for name in sorted(entry.path for entry in entries if entry.is_dir()):
            _check_links(name, (*above, here))


def _explain_image_folder(half: Path) -> str:
    """What torchvision did not find: classes, or the images of some."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    kinds = ", ".join(IMG_EXTENSIONS)
    classes = sorted(entry for entry in half.iterdir() if entry.is_dir())
    if not classes:
        return f"{half} has no classes; expected a folder of images ({kinds}) for each class in it"
    empty = [folder for folder in classes if not any(f.suffix.lower() in IMG_EXTENSIONS for f in folder.rglob("*"))]
    return f"{', '.join(map(str, empty[:5]))} holds no images; expected files that end in {kinds}, or no such folder"
