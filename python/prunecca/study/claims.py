"""Claims: each piece of work is done by exactly one of the processes that share a run directory.

A claim is a small file made with O_EXCL. It names its owner and is touched every few seconds. The claim of an owner
that died is taken over: at once when the owner ran on this machine, after `STALE_SECONDS` without a sign of life when
it ran on another one. Taking over is guarded by `flock`, which the kernel releases when a process dies; on a file system that
has no `flock`, new claims are still exclusive and only two simultaneous take-overs could meet.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ClaimLost
from ..storage.atomic import storage_error

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0
_WRITING_SECONDS = 10.0  # a claim without an owner's name is being written, or its writer was killed just then


class Claim:
    """An owned claim; a context manager that gives it back.

    Use `Claim.take`; `check` raises ClaimLost when the claim has passed to another process meanwhile.
    """

    def __init__(self, path: Path, token: str) -> None:
        self.path = path
        self._token = token
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"claim {path.name}", daemon=True)
        self._heart.start()

    @classmethod
    def take(cls, path: Path) -> Claim | None:
        """The claim at `path`, or None when a living process has it.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _guard(path.parent):
                if path.exists() and _is_held(path):
                    return None
                path.unlink(missing_ok=True)
                token = secrets.token_hex(8)
                return cls(path, token) if _create(path, {**_identity(), "token": token}) else None
        except OSError as error:
            raise storage_error(path, error) from error

    @classmethod
    def wait(cls, path: Path, seconds: float = 60.0) -> Claim:
        """The claim at `path`, as soon as its holder gives it back.

        Raises:
            TimeoutError: it was not given back in time.
        """
        end = time.monotonic() + seconds
        while (claim := cls.take(path)) is None:
            if time.monotonic() > end:
                raise TimeoutError(
                    f"{path} has been held by {holder(path)} for more than {seconds:.0f} s; is that process stopped?"
                )
            time.sleep(0.05)
        return claim

    def check(self) -> None:
        """Raise ClaimLost unless the claim is still this process's own."""
        owner = read_owner(self.path)
        if owner is None or owner.get("token") != self._token:
            raise ClaimLost(f"{self.path.stem} was taken over by another process; this one stops working on it")

    def release(self) -> None:
        """Give the claim back."""
        self._stop.set()
        self._heart.join()
        with _guard(self.path.parent), contextlib.suppress(ClaimLost, FileNotFoundError):
            self.check()
            self.path.unlink()

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What went wrong inside matters more than a claim that cannot be removed: it is stale when the process ends.
        with contextlib.suppress(OSError):
            self.release()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError, ClaimLost):
                self.check()
                os.utime(self.path)


def read_owner(path: Path) -> dict[str, Any] | None:
    """Who holds the claim at `path`: host, pid, token; None when there is no readable claim."""
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def holder(path: Path) -> str:
    """Who holds the claim at `path`, in words."""
    owner = read_owner(path)
    return "another process" if owner is None else f"process {owner.get('pid')} on {owner.get('host')}"


def held_by_sibling(path: Path) -> bool:
    """Whether the owner of the claim at `path` is a child of the process that this one is a child of."""
    owner = read_owner(path) or {}
    pid = owner.get("pid")
    if owner.get("space") != _identity()["space"] or not isinstance(pid, int):
        return False
    fields = _stat(pid)
    return fields is not None and fields[1] == str(os.getppid())


def _is_held(path: Path) -> bool:
    """Whether the owner of the claim at `path` may still be working."""
    owner = read_owner(path)
    mine = _identity()
    if owner is not None and owner.get("space") == mine["space"]:
        pid = owner.get("pid")
        return isinstance(pid, int) and _started(pid) == owner.get("started")
    return _age(path) < (_WRITING_SECONDS if owner is None else STALE_SECONDS)


def _create(path: Path, owner: dict[str, Any]) -> bool:
    try:
        with open(path, "x") as stream:
            json.dump(owner, stream)
    except FileExistsError:
        return False
    except BaseException:  # a claim that names nobody would hold the piece until it is stale
        path.unlink(missing_ok=True)
        raise
    return True


def _identity() -> dict[str, Any]:
    # The process numbers of two machines, two boots or two containers must not be mistaken for each other.
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "space": f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}",
        }
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "space": socket.gethostname(),
    }


def _started(pid: int) -> str | None:
    """When a process started, in clock ticks since the boot; None when it runs no more (a zombie runs no more)."""
    fields = _stat(pid)
    if fields is None:
        if Path("/proc/self/stat").exists():
            return None
        try:  # a system without /proc: the number alone must do
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "running"
    return None if fields[0] in "ZX" else fields[19]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on: state, parent, ...; None when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _age(path: Path) -> float:
    """Seconds since the last sign of life, by the clock of the file system, which all machines that share it see."""
    probe = path.with_name(f".clock-{os.getpid()}-{threading.get_ident()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield
