"""Ctrl-C while the ``prunecca`` command is being loaded, which takes seconds: a sentence instead of a traceback.

In any other program, importing this module does nothing. A command that has its own answer calls ``stop_answering``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def stop_answering() -> None:
    """Put Python's own handler back."""
    if _can_set() and signal.getsignal(signal.SIGINT) is _answer:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command() -> bool:
    """Whether this process is ``prunecca`` or ``python -m prunecca``."""
    given = sys.orig_argv
    place = given.index("-m") if "-m" in given else len(given)
    return "prunecca" in (*given[place + 1 : place + 2], *map(os.path.basename, sys.argv[:1]))


def _answer(number: int, frame: object) -> None:
    os.write(2, b"\ninterrupted before anything was begun; nothing was written\n")
    os._exit(130)


def _can_set() -> bool:
    return threading.current_thread() is threading.main_thread()


if _is_command() and _can_set() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _answer)
