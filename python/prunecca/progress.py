"""How far a comparison is: a bar on a terminal or in a notebook, a line a minute elsewhere, or the caller's own function."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from .text import console

if TYPE_CHECKING:
    from rich.console import Console

Progress = bool | Callable[[int, int | None], None]
Unit = Literal["inputs", "bytes", "resamples"]

_LINES = 60.0  # seconds between two lines in a log
_UPDATES = 0.2  # seconds between two pictures of the bar in a notebook


@contextmanager
def reporting(progress: Progress, total: int | None, unit: Unit = "inputs") -> Iterator[Callable[[int], None]]:
    """A function to call with what is done: of a bar or lines on standard error (True), the caller's own, or of nothing (False).

    Args:
        progress: which of them.
        total: what will be done, where that is known.
        unit: what is counted.
    """
    if callable(progress):
        call = progress
        yield lambda done: call(done, total)
    elif not progress:
        yield lambda done: None
    else:
        screen = console(stderr=True)
        if screen.is_terminal:
            with _bar(screen, total, unit) as update:
                yield update
        elif screen.is_jupyter:
            with _notebook(total, unit) as update:
                yield update
        else:
            yield _lines(total, unit)


@contextmanager
def _bar(terminal: Console, total: int | None, unit: Unit) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), count, TimeRemainingColumn())
    with Bar(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task("comparing", total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def _notebook(total: int | None, unit: Unit) -> Iterator[Callable[[int], None]]:
    """A bar of HTML that IPython redraws; rich's own would need ipywidgets."""
    ipython: Any = importlib.import_module("IPython.display")

    def page(done: int) -> Any:
        value = f"value='{done}' max='{total}'" if total else ""
        return ipython.HTML(f"<progress {value}></progress> {_sentence(done, total, unit, time.monotonic() - begin)}")

    begin = time.monotonic()
    handle = ipython.display(page(0), display_id=True)
    last = begin

    def update(done: int) -> None:
        nonlocal last
        if handle is not None and time.monotonic() - last >= _UPDATES:
            handle.update(page(done))
            last = time.monotonic()

    try:
        yield update
    finally:
        if handle is not None:
            handle.update(ipython.HTML(""))  # as the bar of a terminal goes


def _lines(total: int | None, unit: Unit) -> Callable[[int], None]:
    """A line a minute, for logs; none of what takes less."""
    begin = last = time.monotonic()

    def update(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINES:
            print(_sentence(done, total, unit, now - begin), file=sys.stderr, flush=True)
            last = now

    return update


def _sentence(done: int, total: int | None, unit: Unit, seconds: float) -> str:
    """Such as "compared 12,800 of 50,000 inputs, 3 min left"."""
    if unit == "bytes":
        from rich.filesize import decimal

        told = f"compared {decimal(done)}" + (f" of {decimal(total)}" if total else "")
    else:
        told = f"compared {done:,}" + (f" of {total:,}" if total else "") + " inputs"
    if not total or not 0 < done < total:
        return told
    minutes = round(seconds / done * (total - done) / 60)
    left = "less than 1 min" if not minutes else f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"
    return f"{told}, {left} left"
