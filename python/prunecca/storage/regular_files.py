"""The one way in which files are opened: regular files of a bounded size, and no links where a folder may be someone else's.

``within`` names a folder below which no link is followed, neither for a file nor for the folders on the way to it: that
of a study, which may come from someone else. What leads to that folder is the user's own, and may be a link. Folders are
walked by their descriptors, so that nothing can be put in their place between a check and the use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import zipfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from ..errors import CorruptFile, StorageError

LARGEST_RECORD = 8 << 20  # bytes of a JSON record
LARGEST_STATE = 16 << 30  # bytes of a file of tensors

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | os.PathLike[str], most: int | None = None, within: Path | None = None) -> BufferedReader:
    """Open a file for reading.

    Args:
        path: of the file.
        most: bytes that it may have; None for any number.
        within: the folder below which no link is followed.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such file.
        CorruptFile: it is a link, a folder, a device, a pipe or a socket, lies behind a link, or is too large.
    """
    path = Path(path)
    with _way_to(path, within) as (name, folder):
        # Before it is opened: opening a pipe waits, and opening a device may do something.
        _expect_regular(path, os.stat(name, dir_fd=folder, follow_symlinks=within is None), most)
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags) if folder is None else os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    try:
        _expect_regular(path, os.fstat(descriptor), most)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: int, within: Path | None = None) -> bytes:
    """The content of a file; raises as ``open_regular``."""
    with open_regular(path, most, within) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2:
            raise CorruptFile(f"{path} has {size} bytes, more than half of this machine's memory; use a larger machine")
        return stream.read(size)


def exists(path: Path, within: Path | None = None) -> bool:
    """Whether there is anything of that name, be it a link that leads nowhere; False where the way to it ends."""
    try:
        with _way_to(path, within) as (name, folder):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextlib.contextmanager
def folder_of(path: Path, within: Path | None = None, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder that a file lies in, for ``dir_fd``; the folder is made if asked for.

    Raises:
        StorageError: a link, or a file, takes the place of a folder below ``within``.
        OSError: the folder is not there, or cannot be made.
    """
    start, names = (path.parent, ()) if within is None else (within, _names(path, within)[:-1])
    if make:
        start.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(start, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        here = start
        for name in names:
            here = here / name
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=descriptor)
            below = _enter(descriptor, name, here)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def remove(path: Path, within: Path | None = None) -> None:
    """Remove a file if it is there; of a link only the link itself.

    Raises:
        StorageError: a folder on the way to it is a link, or it is itself a folder.
    """
    try:
        with folder_of(path, within) as folder:
            os.unlink(path.name, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except IsADirectoryError:
        raise StorageError(f"{path} is a folder, where a file is expected; remove it and run again") from None


def check_archive(path: str | os.PathLike[str]) -> None:
    """Refuse a zip archive that is larger in memory than on the disk, before torch unpacks it.

    ``torch.save`` compresses nothing.

    Args:
        path: of the file; what is no zip archive is left to whoever reads it.

    Raises:
        CorruptFile: a member is compressed, members share their bytes, or the archive cannot be read.
    """
    with open_regular(path, LARGEST_STATE) as stream:
        if not zipfile.is_zipfile(stream):
            return
        try:
            members = zipfile.ZipFile(stream).infolist()
        except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, UnicodeDecodeError):
            raise CorruptFile(f"{path} is a damaged archive; expected what torch.save writes") from None
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > os.fstat(stream.fileno()).st_size:
            raise CorruptFile(f"{path} is a compressed archive, which torch.save does not write; save the weights anew")


def kind_of(mode: int) -> str:
    """What a mode of ``stat`` stands for in words; empty for a regular file."""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


@contextlib.contextmanager
def _way_to(path: Path, within: Path | None) -> Iterator[tuple[str | Path, int | None]]:
    """What ``os.open`` takes to open a file: a path, or below ``within`` a name and the descriptor of its folder."""
    if within is None:
        yield path, None
        return
    try:
        with folder_of(path, within) as folder:
            yield path.name, folder
    except StorageError as error:  # to a reader, a folder that is a link is one more kind of damage
        raise CorruptFile(str(error)) from None


def _enter(folder: int, name: str, path: Path) -> int:
    try:
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            kind = kind_of(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
            if kind == "a link":
                raise StorageError(
                    f"{path} is a link, and none is followed inside a run directory; put the folder itself there"
                ) from None
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
        raise


def _names(path: Path, within: Path) -> tuple[str, ...]:
    names = path.relative_to(within).parts
    if ".." in names or not names:
        raise StorageError(f"{path} does not lie in {within}; choose another name")
    return names


def _expect_regular(path: Path, found: os.stat_result, most: int | None) -> None:
    kind = kind_of(found.st_mode)
    if kind:
        raise CorruptFile(f"{path} is {kind}, where a file is expected; remove it and run again")
    if most is not None and found.st_size > most:
        raise CorruptFile(f"{path} has {found.st_size} bytes; expected at most {most}")
