"""Who makes which piece of a study: one process, several on this machine, or many that share the run directory.

All use the same loop: take a piece that is not finished, whose parents are, and that nobody else has claimed. So processes may
come, go and be killed at any time: what they had claimed is taken over, from the last finished epoch on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ClaimLost, WorkerFailed, sentence
from ..storage import atomic
from .claims import Claim, held_by_sibling, holder
from .level import Maker
from .plan import Piece
from .reporter import Events, Reporter
from .run_directory import RunDirectory

Make = Callable[[Piece, Claim], None]


@dataclass(frozen=True)
class Task:
    """What a worker process needs to know; it can be sent to it."""

    root: Path
    data: Path | None
    device: str
    threads: int

    def run(self, reporter: Reporter) -> None:
        """Work in this process until every piece of the run directory is finished."""
        run = RunDirectory(self.root, reporter.message)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            work(run, Maker(run, self.data, torch.device(self.device), reporter).make)
        finally:
            torch.set_num_threads(before)


def work(run: RunDirectory, make: Make, *, pause: float = 0.5) -> None:
    """Make pieces until all are finished, by this process or by others.

    Args:
        run: the configured run directory.
        make: makes one piece; it calls `Claim.check` before it writes.
        pause: seconds between two looks at what the others do.
    """
    while True:
        missing = [piece for piece in run.pieces() if run.record(piece) is None]
        if not missing:
            run.remove_checkpoints()
            return
        if not any(_try(run, piece, make) for piece in missing):
            _tell_who_works(run, missing)
            time.sleep(pause)


def _try(run: RunDirectory, piece: Piece, make: Make) -> bool:
    """Whether this process could claim the piece; it is finished then (a replicate with all its levels)."""
    parent = run.parent(piece)
    if parent is not None and run.record(parent) is None:
        return False
    claim = run.claim(piece)
    if claim is None:
        return False
    with claim:
        try:
            for each in [other for other in run.pieces() if other.claim == piece.claim]:
                if run.record(each) is None:
                    atomic.remove_partial(run.path(each, ""))
                    make(each, claim)
        except ClaimLost as error:
            run.tell(str(error))
    return True


def _tell_who_works(run: RunDirectory, pieces: list[Piece]) -> None:
    """Say once for whom this process waits, unless it is another worker of the same command."""
    for piece in pieces:
        path = run.claim_path(piece)
        if not path.exists():
            continue
        if multiprocessing.parent_process() is None or not held_by_sibling(path):
            run.tell(f"waiting for {piece}: {holder(path)} works on it; should that stop, this one takes over")
        return


def work_with(task: Task, workers: int, reporter: Reporter) -> None:
    """Work with `workers` processes on this machine until every piece is finished.

    A worker that is killed loses only its current epoch: the others take over what it had claimed.

    Raises:
        WorkerFailed: a worker stopped with an error, whose sentence is passed on, or all were killed.
    """
    running: dict[Any, Any] = {}
    killed = 0
    try:
        with _uninterrupted():  # a worker that was started must be known, or nobody ends it
            _start(task, workers, running)
        while running:
            ready: list[Any] = multiprocessing.connection.wait(list(running))
            for pipe in ready:
                try:
                    name, arguments = pipe.recv()
                except EOFError:
                    process = running.pop(pipe)
                    process.join()
                    if process.exitcode != 0:
                        killed += 1
                        reporter.message(
                            f"a worker was ended from outside (exit code {process.exitcode}); "
                            "the others take over from its last finished epoch"
                        )
                    continue
                if name == "failed":
                    raise WorkerFailed(arguments[0])
                getattr(reporter, name)(*arguments)
    finally:
        with _uninterrupted():
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.join()
    if killed == workers:
        raise WorkerFailed("all workers were ended from outside; run the same command again to continue")


def _start(task: Task, workers: int, running: dict[Any, Any]) -> None:
    """Start worker processes and add them, by their pipes, to `running`."""
    context = multiprocessing.get_context("spawn")
    multiprocessing.resource_tracker.ensure_running()  # its start would unblock the signal
    # Ctrl-C reaches the whole group; the parent answers it and ends its workers, which inherit the blocked signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(workers):
            # A pipe each: a worker that dies holding the lock of a common queue would silence all others.
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_worker, args=(task, theirs))
            process.start()
            theirs.close()
            running[ours] = process
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM that come inside take effect at the end."""
    if threading.current_thread() is not threading.main_thread():  # which alone receives signals
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda which, _: came.append(which)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if came:
        signal.raise_signal(came[0])


def _worker(task: Task, pipe: Any) -> None:
    try:
        task.run(Events(pipe.send))
    except BrokenPipeError:  # the parent is gone: so is the reason to work
        sys.exit(1)
    except Exception as error:
        pipe.send(("failed", (sentence(error),)))
        sys.exit(1)
