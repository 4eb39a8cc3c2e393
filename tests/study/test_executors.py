"""Worker processes and Ray: the same bytes as in one process, also when a worker is killed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
import studies
import torch

from prunecca.errors import ConfigurationError, WorkerFailed
from prunecca.study import executors, ray_executor, study
from prunecca.study.options import Size
from prunecca.study.plan import Network
from prunecca.study.reporter import Reporter
from prunecca.study.run_directory import RunDirectory

FLAGS = {"epochs": 3, "rewind_epoch": 1, "train_images": 64, "images": 32, "metrics": ("svcca",), "dimension_images": 0}
SIZE = Size(levels=2, replicates=2, controls=1)


def start(out: Path, **changes: Any) -> RunDirectory:
    return studies.start(out, {**FLAGS, **changes}, SIZE)


def files(run: RunDirectory) -> dict[str, bytes]:
    """The content of every file of every network but for the records, which hold seconds."""
    paths = [path for path in (run.root / "digits2").rglob("*") if path.is_file() and path.suffix != ".json"]
    return {str(path.relative_to(run.root)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = start(tmp_path_factory.mktemp("executors") / "run")
    study.execute(run, study.Workers(threads=1))
    return run


class Listener(Reporter):
    """Notes the trainings that begin, and the messages."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.messages: list[str] = []
        self.hints: list[str] = []  # of few images

    def begin(self, name: str, epoch: int, epochs: int) -> None:
        self.begun.append((name, epoch))

    def message(self, text: str) -> None:
        if " directions" in text:
            self.hints.append(text)
        else:
            self.messages.append(text)


class Killer(Listener):
    """Kills a worker process after the first epoch of the first pruned network."""

    killed = False

    def epoch(self, name: str, record: dict[str, Any]) -> None:
        if not self.killed and name.startswith("digits2 replicate"):
            self.killed = True
            multiprocessing.active_children()[0].kill()


@pytest.mark.slow
def test_of_two_workers_one_may_be_killed(serial: RunDirectory, tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    killer = Killer()
    study.execute(run, study.Workers(count=2, threads=1), reporter=killer)
    assert killer.killed
    assert killer.messages == [
        "a worker was ended from outside (exit code -9); the others take over from its last finished epoch"
    ]
    assert files(run) == files(serial)


def test_few_images_are_said_once_for_all_networks(tmp_path: Path) -> None:
    run = studies.start(tmp_path / "run", FLAGS, Size(levels=1, replicates=1, controls=1))
    heard = Listener()
    studies.make(run, heard)
    assert len(heard.hints) == 1
    assert heard.hints[0].startswith("digits2 level 0: svcca of ")


@pytest.mark.slow
def test_an_error_in_a_worker_is_one_sentence(tmp_path: Path) -> None:
    run = start(tmp_path / "run", learning_rate=1e30)
    with pytest.raises(WorkerFailed, match="the loss is nan in epoch 1"):
        study.execute(run, study.Workers(count=2, threads=1))
    assert multiprocessing.active_children() == []


def test_workers_know_their_numbers_and_give_back_what_they_do_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Pipe:
        def __init__(self) -> None:
            self.tasks = [pickle.dumps("a network")]

        def recv_bytes(self) -> bytes:
            if not self.tasks:
                raise EOFError
            return self.tasks.pop()

        def send_bytes(self, message: bytes) -> None:
            asked.append(pickle.loads(message))

    class Fake:
        def make(self, task: Any, reporter: Any, worker: int) -> str:
            return f"{task} of worker {worker}"

    with pytest.raises(SystemExit):
        executors._work(Fake(), 3, Pipe())  # type: ignore[arg-type]
    assert asked == [("finished", ("a network of worker 3",))]

    def choose(name: str, worker: int | None) -> str:
        asked.append((name, worker))
        return "cuda:1"

    monkeypatch.setattr(executors, "choose_device", choose)
    monkeypatch.setattr(executors, "give_back", asked.append)
    monkeypatch.setattr(executors, "make_network", lambda plan, network, parents, place: place.device)
    job = executors.Job(None, None, "cuda", 1, Path("nowhere"), "")  # type: ignore[arg-type]
    device = torch.device("cuda:1")
    assert job.make(executors.Task(Network("digits2"), {}), Reporter(), 5) == device
    assert asked[1:] == [("cuda", 5), device]


def dying(once: Path) -> Any:
    """What a Ray worker does, but that the first one to finish an epoch of a pruned network is killed there.

    A killer outside could find the worker gone already, or busy with another network. A function in a function: Ray
    sends its code, where the workers could not import this file.
    """

    def make(job: Any, network: Any, names: Any, events: Any, *parents: Any) -> Any:
        from prunecca.study import ray_executor

        class Dying(ray_executor.Events):
            def epoch(self, name: str, record: dict[str, Any]) -> None:
                if network.level and not once.exists():
                    once.write_text(name)
                    os.kill(os.getpid(), signal.SIGKILL)
                super().epoch(name, record)

        ray_executor.Events = Dying  # type: ignore[misc]
        return ray_executor._make(job, network, names, events, *parents)

    return make


@pytest.mark.slow
def test_on_ray_a_killed_worker_loses_its_epoch(
    serial: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (extra prunecca[ray])")
    monkeypatch.setattr(ray_executor, "_make", dying(tmp_path / "killed"))
    run = start(tmp_path / "run")
    heard = Listener()
    study.execute(run, study.Workers("ray", count=2, threads=1), reporter=heard)
    killed = (tmp_path / "killed").read_text()
    assert [text for text in heard.messages if text.startswith(f"{killed}: its worker was lost")]
    assert files(run) == files(serial)
    assert [epoch for name, epoch in heard.begun if name == killed][-1] > 1, "from the checkpoint, not from its start"


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (extra prunecca[ray])")
    run = start(tmp_path / "run")
    with pytest.raises(ConfigurationError, match="no Ray cluster answers at auto"):
        study.execute(run, study.Workers("ray", address="auto", threads=1))
