"""Files that are whole or absent: written beside their place, flushed to the disk and renamed.

A reader sees the old file or the new one, and a process killed at any moment leaves neither damaged.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..errors import StorageError
from .regular_files import LARGEST_STATE, folder_of, kind_of, open_regular

_PARTIAL = ".partial"


def write_atomic(
    path: str | os.PathLike[str], write: Callable[[BinaryIO], object] | bytes, within: Path | None = None
) -> None:
    """Replace a file by a new one, whole or not at all.

    The folder is made when it is missing. When anything fails, the old file stays and nothing half-written is left. What
    is written is always a new file: of a link in its place, the link alone goes.

    Args:
        path: of the file.
        write: puts the content into the binary stream it is given; or the content itself.
        within: the folder below which no link is followed, see ``regular_files``.

    Raises:
        StorageError: the disk is full, the folder cannot be written, or something else than a file has that name.
    """
    path = Path(path)
    try:
        with folder_of(path, within, make=True) as folder:
            if within is None:
                _expect_file(path)
            _replace(path.name, write, folder)
            _sync_folder(folder)
    except OSError as error:
        raise storage_error(path, error) from error


def _replace(name: str, write: Callable[[BinaryIO], object] | bytes, folder: int) -> None:
    partial = f".{name}.{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(partial, flags, 0o666, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if isinstance(write, bytes):
                stream.write(write)
            else:
                write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial, dir_fd=folder)
        raise


def _expect_file(path: Path) -> None:
    """A path of the user may be a link, but a device or a pipe would be replaced by a file."""
    try:
        kind = kind_of(os.stat(path).st_mode)
    except OSError:  # there is nothing yet, or a link that leads nowhere
        return
    if kind:
        raise StorageError(f"cannot write {path}: it is {kind}; choose the name of a file")


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
    if error.errno == errno.EISDIR:
        return StorageError(f"cannot write {path}: a folder has this name; remove it, or choose another name")
    if error.errno == errno.ENOENT:  # of a folder that is made when it is missing, such as /proc
        return StorageError(f"cannot write {path}: no file can be made there; choose another folder")
    if error.errno == errno.ENAMETOOLONG:
        return StorageError(f"cannot write {path}: the name is too long for this file system; choose a shorter one")
    return error


def remove_partial(folder: Path, name: str = "*", within: Path | None = None) -> None:
    """Remove what killed processes left half-written of the file ``name`` in ``folder``; only where no other process writes it.

    Raises:
        StorageError: the folder lies behind a link below ``within``.
    """
    try:
        with folder_of(folder / name, within) as descriptor:
            for partial in _names(descriptor):
                if fnmatch.fnmatchcase(partial, f".{name}.*{_PARTIAL}"):
                    with contextlib.suppress(IsADirectoryError):  # not what we leave
                        os.unlink(partial, dir_fd=descriptor)
    except (FileNotFoundError, NotADirectoryError):
        pass


def file_digest(path: Path, within: Path | None = None) -> str:
    """SHA-256 (hexadecimal) of the bytes of a file.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: it is no regular file, or too large.
    """
    with open_regular(path, LARGEST_STATE, within) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _names(folder: int) -> list[str]:
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: int) -> None:
    # The rename itself must reach the disk; some network file systems have no fsync of a folder, and do it themselves.
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
