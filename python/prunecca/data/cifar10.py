"""CIFAR-10 from its python batches."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from .images import Labelled

# The order in which the paper's problems take the classes of CIFAR-10 (Table 1; its second "dog" read as frog).
CIFAR10_CLASSES = ("automobile", "truck", "airplane", "ship", "cat", "dog", "deer", "horse", "bird", "frog")
_CIFAR10_FOLDER = "cifar-10-batches-py"


def read_cifar10(folder: str | os.PathLike[str], classes: int = 10) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Training and test images, 5000 and 1000 of each class, 32 x 32.

    The files are pickles, so each is unpickled only after its MD5 has been found right.

    Args:
        folder: the one that holds ``cifar-10-batches-py``, that one itself, or one above.
        classes: the first so many of ``CIFAR10_CLASSES``.

    Returns:
        Training images, test images, and the names of the classes.

    Raises:
        FileNotFoundError: the folder does not hold the files, or one of them is missing.
        ValueError: a file is corrupt, or there are not so many classes.
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
