"""What someone may put into a folder before another opens it, and a look at whether anything outside was touched."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def fingerprint(folder: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """Every name below a folder with inode, mode, links, time of change and content; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        told = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (told.st_ino, told.st_mode, told.st_nlink, told.st_mtime_ns, content)
    return found


def _link(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


def _dangling(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere.with_name("made-by-accident"))


def _zero(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path, _: Path) -> None:
    path.symlink_to(path.name)


def _pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, _: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _folder(path: Path, _: Path) -> None:
    path.mkdir()


PLANTS: dict[str, Callable[[Path, Path], None]] = {
    "link": _link,
    "dangling": _dangling,
    "zero": _zero,
    "loop": _loop,
    "pipe": _pipe,
    "socket": _socket,
    "folder": _folder,
}


def plant(kind: str, path: Path, elsewhere: Path) -> None:
    """Put something in the place of a file, which is removed: a link to the file ``elsewhere``, a pipe, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    PLANTS[kind](path, elsewhere)


@contextmanager
def soon(seconds: int = 20) -> Iterator[None]:
    """What is done inside must end: an alarm says so instead of a test that hangs."""

    def late(*_: object) -> None:
        raise AssertionError(f"it takes longer than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
