"""Ctrl-C while the ``prunecca`` command is being loaded, which takes seconds: a sentence instead of a traceback.

Importing this module is all; in any other program it does nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType


def _is_command() -> bool:
    """Whether this process is ``prunecca`` or ``python -m prunecca``."""
    given = sys.orig_argv
    place = given.index("-m") if "-m" in given else len(given)
    return "prunecca" in (*given[place + 1 : place + 2], *map(os.path.basename, sys.argv[:1]))


def _answer(number: int, frame: FrameType | None) -> None:
    if _is_begun(frame):
        signal.default_int_handler(number, frame)
    os.write(2, b"\ninterrupted before anything was begun; nothing was written\n")
    os._exit(130)


def _is_begun(frame: FrameType | None) -> bool:
    """Whether the function `name` of a `cli_name` is running in this stack; an interruption is then its own affair."""
    while frame is not None:
        if frame.f_globals.get("__name__") == f"prunecca.cli_{frame.f_code.co_name}":
            return True
        frame = frame.f_back
    return False


if (
    _is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _answer)
