"""What a running study tells: bars on a terminal, one line per network elsewhere, or events to another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter:
    """What the study calls while it works; this one says nothing. A name is that of a network."""

    def start(self, run: str, done: int, total: int) -> None:
        """`done` of the `total` networks of the run directory `run` are finished already."""

    def begin(self, name: str, epoch: int, epochs: int) -> None:
        """A network starts or continues its training after `epoch` of at most `epochs` epochs."""

    def batch(self, name: str, done: int, total: int) -> None:
        """`done` of the `total` batches of the running epoch are trained."""

    def epoch(self, name: str, record: dict[str, Any]) -> None:
        """An epoch is finished and saved."""

    def end(self, name: str, summary: dict[str, Any]) -> None:
        """The network is trained, compared and saved."""

    def message(self, text: str) -> None:
        """Something the user should know."""


class Lines(Reporter):
    """One line per network, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started: dict[str, float] = {}

    def start(self, run: str, done: int, total: int) -> None:
        if done:
            self.message(f"{run}: {done} of {total} networks are finished already")

    def begin(self, name: str, epoch: int, epochs: int) -> None:
        self._started[name] = time.monotonic()
        where = f" from epoch {epoch}" if epoch else ""
        self.message(f"{name}: training{where} to epoch {epochs}")

    def end(self, name: str, summary: dict[str, Any]) -> None:
        seconds = time.monotonic() - self._started.pop(name, time.monotonic())
        self.message(f"{name}: {describe(summary)} in {seconds:.1f} s")

    def message(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Bars(Reporter):
    """Bars on a terminal: the networks of the study, and the epochs of each network in training. A context manager."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._all = self._progress.add_task("networks", total=0, visible=False, unit="", note="")
        self._tasks: dict[str, TaskID] = {}
        self._epochs: dict[str, int] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, run: str, done: int, total: int) -> None:
        self._progress.update(self._all, completed=done, total=total, visible=True)
        if done:
            self.message(f"{run}: {done} of {total} networks are finished already")

    def begin(self, name: str, epoch: int, epochs: int) -> None:
        if name in self._tasks:
            self._progress.remove_task(self._tasks[name])
        self._tasks[name] = self._progress.add_task(name, total=epochs, completed=epoch, unit="epochs", note="")
        self._epochs[name] = epoch

    def batch(self, name: str, done: int, total: int) -> None:
        self._progress.update(self._tasks[name], completed=self._epochs[name] + done / total)

    def epoch(self, name: str, record: dict[str, Any]) -> None:
        self._epochs[name] = record["epoch"]
        self._progress.update(self._tasks[name], completed=record["epoch"])
        if "test_accuracy" in record:
            self._progress.update(self._tasks[name], note=f"test accuracy {100 * record['test_accuracy']:.2f} %")

    def end(self, name: str, summary: dict[str, Any]) -> None:
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))
        self._progress.advance(self._all)
        self._progress.console.print(f"{name}: {describe(summary)}", highlight=False, markup=False)

    def message(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


class Events(Reporter):
    """Passes every call to `send` as a tuple (method name, arguments), for a reporter in another process."""

    def __init__(self, send: Callable[[tuple[str, tuple[Any, ...]]], None]) -> None:
        self._send = send
        self._last = 0.0

    def begin(self, name: str, epoch: int, epochs: int) -> None:
        self._send(("begin", (name, epoch, epochs)))

    def batch(self, name: str, done: int, total: int) -> None:
        if time.monotonic() - self._last > 0.2:  # a bar does not need more, and a pipe is not free
            self._last = time.monotonic()
            self._send(("batch", (name, done, total)))

    def epoch(self, name: str, record: dict[str, Any]) -> None:
        self._send(("epoch", (name, record)))

    def end(self, name: str, summary: dict[str, Any]) -> None:
        self._send(("end", (name, summary)))

    def message(self, text: str) -> None:
        self._send(("message", (text,)))


def describe(summary: dict[str, Any]) -> str:
    """A network in half a sentence: test accuracy and what is left of it."""
    return (
        f"test accuracy {100 * summary['test_accuracy']:.2f} %, {100 * summary['density']:.1f} % of the parameters left"
    )
