"""Files that are whole or absent: written beside their place, flushed to the disk and renamed.

A reader sees the old file or the new one, and a process killed at any moment leaves neither damaged.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..errors import StorageError

_PARTIAL = ".partial"


def write_atomic(path: str | os.PathLike[str], write: Callable[[BinaryIO], object] | bytes) -> None:
    """Replace a file by a new one, whole or not at all.

    The folder is made when it is missing. When anything fails, the old file stays and nothing half-written is left.

    Args:
        path: of the file.
        write: puts the content into the binary stream it is given; or the content itself.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "xb") as stream:
                if isinstance(write, bytes):
                    stream.write(write)
                else:
                    write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> OSError:
    """The one-sentence form of ``error``, met while writing ``path``; the error itself when it is of another kind."""
    if isinstance(error, StorageError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"cannot write {path}: the disk is full; free some space and run the same command again")
    if error.errno == errno.EFBIG:
        return StorageError(
            f"cannot write {path}: it is larger than this process may write; raise the limit (ulimit -f) and run the same command again"
        )
    if error.errno == errno.EIO:
        return StorageError(f"cannot write {path}: the disk reports an error; check it, or choose another folder")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageError(
            f"cannot write {path}: the folder is read-only for this user; choose a folder that can be written"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return StorageError(f"cannot write {path}: a part of this path is a file, not a folder; choose another folder")
    return error


def remove_partial(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half-written of the file ``name`` in ``folder``; only where no other process writes it."""
    for partial in folder.glob(f".{name}.*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """SHA-256 (hexadecimal) of the bytes of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk; some network file systems have no fsync of a folder, and do it themselves.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
