"""Whether what a command is to write can be written, asked before hours of work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..errors import StorageError


def check_file(path: Path) -> None:
    """Try to write beside a file that is to be written.

    Raises:
        StorageError: it is a folder or device, or its folder cannot be made or written.
    """
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; give the name of a file in it")
    if path.exists() and not path.is_file():
        raise StorageError(f"cannot write {path}: it is no ordinary file; choose another name")
    _try(path.parent, path)


def check_folder(path: Path) -> None:
    """Try to write into a folder, or where it does not exist yet into the one it would be made in.

    Raises:
        StorageError: it is a file, or cannot be made or written.
    """
    _try(path, path)


def _try(folder: Path, path: Path) -> None:
    place = folder
    while not place.exists() and place != place.parent:
        if place.is_symlink():
            raise StorageError(f"cannot write {path}: {place} is a link that leads nowhere; choose another folder")
        place = place.parent
    if not place.is_dir():
        raise StorageError(f"cannot write {path}: {place} is a file, not a folder; choose another folder")
    try:
        with tempfile.TemporaryFile(dir=place):
            return
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise StorageError(
            f"cannot write {path}: nothing can be written in {place} ({why}); choose another folder"
        ) from error
