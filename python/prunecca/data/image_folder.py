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


def _explain_image_folder(place: Path) -> str:
    """What torchvision did not find: classes, or the images of some."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    kinds = ", ".join(IMG_EXTENSIONS)
    classes = sorted(entry for entry in place.iterdir() if entry.is_dir())
    if not classes:
        return f"{place} has no classes; expected a folder of images ({kinds}) for each class in it"
    empty = [folder for folder in classes if not any(f.suffix.lower() in IMG_EXTENSIONS for f in folder.rglob("*"))]
    return f"{', '.join(map(str, empty[:5]))} holds no images; expected files that end in {kinds}, or no such folder"
