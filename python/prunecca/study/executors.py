"""Who makes the networks of a study: this process, worker processes on this machine, or machines of a Ray cluster.

An executor is given tasks and gives back results, as values; the process that owns the run directory alone writes them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import CorruptFile, WorkerFailed, sentence
from ..machine.info import choose_device
from ..machine.memory import give_back
from ..storage.regular_files import LARGEST_RECORD, read_regular
from .checkpoint import Checkpoint, Workplace
from .level import make_network
from .plan import Network, NetworkResult, Parent, Plan
from .reporter import Events, Reporter

OWNED = ".owner"  # in the run directory while a process owns it: its content tells a worker that both see one folder


@dataclass(frozen=True)
class Job:
    """What every worker is told once.

    Attributes:
        plan: the study.
        data: folder of the images, on every machine; None: the variable PRUNECCA_DATA.
        device: auto, cpu, cuda or cuda:N, chosen by each worker.
        threads: of the CPU, for each network.
        root: the run directory, where running trainings are kept.
        owner: the content of ``root / OWNED``: a machine that does not see it keeps no checkpoints.
    """

    plan: Plan
    data: Path | None
    device: str
    threads: int
    root: Path
    owner: str

    def make(self, task: Task, reporter: Reporter, worker: int | None = None) -> NetworkResult:
        """Make a network in this process.

        Args:
            task: the network.
            reporter: told what happens.
            worker: the number of this process among those that share the GPUs of the machine; None: it has one for itself.
        """
        device, before = torch.device(choose_device(self.device, worker)), torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            folder = self.root / task.network.folder if self._shares_folder() else None
            checkpoint = Checkpoint(folder, self.root)
            place = Workplace(device, self.data, checkpoint, reporter)
            return make_network(self.plan, task.network, task.parents, place)
        finally:
            torch.set_num_threads(before)
            give_back(device)  # the comparison's share is the largest, and other workers are at theirs

    def _shares_folder(self) -> bool:
        try:
            return read_regular(self.root / OWNED, LARGEST_RECORD, self.root) == self.owner.encode()
        except (OSError, CorruptFile):
            return False


@dataclass(frozen=True)
class Task:
    """A network to be made, and what it is made from."""

    network: Network
    parents: Mapping[Network, Parent]


@dataclass(frozen=True)
class Outcome:
    """What came back of a task: the result, or None where its worker was lost; ``reason`` then says how."""

    network: Network
    result: NetworkResult | None
    reason: str = ""


class Executor(Protocol):
    """One small interface: ``submit`` while ``free``, and ``wait`` for one outcome at a time."""

    @property
    def free(self) -> int:
        """How many tasks it takes at this moment."""

    def submit(self, task: Task) -> None:
        """Begin with a task."""

    def wait(self) -> Outcome:
        """The next outcome.

        Raises:
            WorkerFailed: a worker stopped with an error, or none is left.
        """

    def close(self) -> None:
        """End what runs."""


class Serial:
    """Makes one network after the other in this process; errors are raised as they are."""

    def __init__(self, job: Job, reporter: Reporter) -> None:
        self._job, self._reporter = job, reporter
        self._tasks: deque[Task] = deque()

    @property
    def free(self) -> int:
        return 1 - len(self._tasks)

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def wait(self) -> Outcome:
        task = self._tasks.popleft()
        return Outcome(task.network, self._job.make(task, self._reporter))

    def close(self) -> None:
        self._tasks.clear()


class Processes:
    """Worker processes on this machine. One that is killed loses its running epoch: the others take over."""

    def __init__(self, job: Job, workers: int, reporter: Reporter) -> None:
        self._reporter = reporter
        self._workers: dict[Any, Any] = {}  # processes by their pipes
        self._running: dict[Any, Network] = {}  # what each makes, by its pipe
        try:
            with _uninterrupted():  # a worker that was started must be known, or nobody ends it
                self._start(job, workers)
        except BaseException:
            self.close()
            raise

    @property
    def free(self) -> int:
        return len(self._workers) - len(self._running)

    def submit(self, task: Task) -> None:
        pipe = next(pipe for pipe in self._workers if pipe not in self._running)
        self._running[pipe] = task.network
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # it has just been killed: `wait` finds that out
            pipe.send_bytes(pickle.dumps(task, protocol=pickle.HIGHEST_PROTOCOL))

    def wait(self) -> Outcome:
        while True:
            ready: list[Any] = multiprocessing.connection.wait(list(self._running))
            for pipe in ready:
                outcome = self._receive(pipe)
                if outcome is not None:
                    return outcome

    def close(self) -> None:
        with _uninterrupted():
            for process in self._workers.values():
                process.terminate()
            for process in self._workers.values():
                process.join()
            self._workers.clear()

    def _receive(self, pipe: Any) -> Outcome | None:
        try:
            name, arguments = pickle.loads(pipe.recv_bytes())  # of our own child process
        except (EOFError, ConnectionResetError):
            return self._lost(pipe)
        if name == "failed":
            raise WorkerFailed(arguments[0])
        if name == "finished":
            return Outcome(self._running.pop(pipe), arguments[0])
        getattr(self._reporter, name)(*arguments)
        return None

    def _lost(self, pipe: Any) -> Outcome:
        process, network = self._workers.pop(pipe), self._running.pop(pipe)
        process.join()
        if not self._workers:
            raise WorkerFailed("all workers were ended from outside; run the same command again to continue")
        return Outcome(
            network,
            None,
            f"a worker was ended from outside (exit code {process.exitcode}); "
            "the others take over from its last finished epoch",
        )

    def _start(self, job: Job, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        multiprocessing.resource_tracker.ensure_running()  # its start would unblock the signal
        # Ctrl-C reaches the whole group; the parent answers it and ends its workers, which inherit the blocked signal.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for number in range(workers):
                # A pipe each: a worker that dies holding the lock of a common queue would silence all others.
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(job, number, there))
                process.start()
                there.close()
                self._workers[here] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(job: Job, number: int, pipe: Any) -> None:
    """A worker process: makes what it is given until the owner is gone."""
    threading.Thread(target=_end_with_owner, daemon=True).start()
    lock = threading.Lock()

    def send(message: tuple[str, tuple[Any, ...]]) -> None:
        with lock:
            pipe.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))

    try:
        while True:
            task = pickle.loads(pipe.recv_bytes())  # of the process that started this one
            send(("finished", (job.make(task, Events(send), number),)))
    except (BrokenPipeError, ConnectionResetError, EOFError):
        sys.exit(1)
    except Exception as error:
        send(("failed", (sentence(error),)))
        sys.exit(1)


def _end_with_owner() -> None:
    """End this process when the one that started it has ended, also when it was killed."""
    owner = multiprocessing.parent_process()
    if owner is not None:
        multiprocessing.connection.wait([owner.sentinel])
        os._exit(1)


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
