"""How far a comparison is: a progress bar on a terminal, or the caller's own function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from .text import console

Progress = bool | Callable[[int, int | None], None]


@contextmanager
def reporting(
    progress: Progress, total: int | None, unit: Literal["inputs", "bytes"] = "inputs"
) -> Iterator[Callable[[int], None]]:
    """A function to call with what is done: of a bar on standard error (True), the caller's own, or of nothing (False)."""
    if progress is True:
        from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        terminal = console(stderr=True)
        count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), count, TimeRemainingColumn())
        with Bar(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
            task = bar.add_task("comparing", total=total)
            yield lambda done: bar.update(task, completed=done)
    elif callable(progress):
        call = progress
        yield lambda done: call(done, total)
    else:
        yield lambda done: None
