"""A study that is killed at random moments, interrupted, or started twice: nothing lost, nothing left, one sentence."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from prunecca.study import tables
from prunecca.study.run_directory import RunDirectory

OPTIONS = {"epochs": 4, "rewind-epoch": 1, "levels": 2, "replicates": 2, "train-images": 64, "images": 48}
STUDY = [
    *("reproduce", "digits2", "--metrics", "svcca", "--threads", "1", "--device", "cpu"),
    *(text for name, value in OPTIONS.items() for text in (f"--{name}", str(value))),
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

# Imports once; of its input each line is a command line, which a fork of it runs, or the number of a fork to wait for.
FORKING = """
    import os, sys
    logs, sys.argv = sys.argv[1], ["prunecca"]
    import sklearn.datasets, torch._dynamo, torchvision
    from prunecca import cli
    from prunecca.study import study
    for line in sys.stdin:
        if line.strip().isdecimal():
            print(os.waitstatus_to_exitcode(os.waitpid(int(line), 0)[1]), flush=True)
            continue
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(os.open(os.path.join(logs, str(os.getpid())), os.O_WRONLY | os.O_CREAT), 2)
            sys.argv = ["prunecca", *line.split()]
            cli.main()
            os._exit(0)
        print(child, flush=True)
"""


class Forks:
    """Runs commands as processes of their own, without the seconds that importing torch takes each time."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        program = [sys.executable, "-c", textwrap.dedent(FORKING), str(logs)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, env=ENVIRONMENT)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def start(self, *arguments: object) -> int:
        """Start a command; its process number."""
        return self._ask(" ".join(map(str, arguments)))

    def wait(self, process: int) -> int:
        """Wait for a command; its exit code, or the negative number of the signal that ended it."""
        return self._ask(process)

    def said(self, process: int) -> str:
        """What a command wrote on its error stream."""
        return (self._logs / str(process)).read_text()

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _ask(self, line: object) -> int:
        self._input.write(f"{line}\n")
        self._input.flush()
        return int(self._output.readline())


@pytest.fixture(scope="module", autouse=True)
def _interruptible() -> Iterator[None]:
    # A shell starts what it runs in the background with SIGINT ignored, and so would every process that is started here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = Forks(tmp_path_factory.mktemp("logs"))
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def uninterrupted(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The run directory of a study that nothing stopped, and the seconds it took."""
    out = tmp_path_factory.mktemp("kills") / "whole"
    began = time.monotonic()
    assert forks.wait(forks.start(*STUDY, "--out", out)) == 0
    return out, time.monotonic() - began


def digests(out: Path) -> dict[str, Any]:
    """Digests of all networks, and the bytes of all tables but that of the seconds."""
    networks = {str(piece): record["summary"]["digest"] for piece, record in RunDirectory(out).finished().items()}
    names = [name for name in tables.NAMES if name != "timing"]
    return {**networks, **{name: (out / "tables" / f"{name}.parquet").read_bytes() for name in names}}


def left_over(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.name.endswith(".partial") or path.name.startswith("training")]


@pytest.mark.slow
def test_killed_ten_times_at_random_moments_it_ends_in_the_same_digests(
    forks: Forks, uninterrupted: tuple[Path, float], tmp_path: Path
) -> None:
    out, (whole, seconds) = tmp_path / "run", uninterrupted
    choose, pieces = random.Random(5), len(RunDirectory(whole).plan().networks())
    for number in range(10):
        process = forks.start(*STUDY, "--out", out)
        moment = time.monotonic() + choose.uniform(0, 0.16) * seconds
        most = (number + 1) * pieces // 11  # so that the tenth, on a faster machine, still finds something to do
        while time.monotonic() < moment and len(list(out.rglob("piece.json"))) <= most:
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        assert forks.wait(process) == -signal.SIGKILL
    assert forks.wait(forks.start(*STUDY, "--out", out)) == 0
    assert digests(out) == digests(whole)
    assert left_over(out) == []


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The command as a user starts it, in a process group of its own, as a terminal does it."""
    command = [sys.executable, "-m", "prunecca", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, env=ENVIRONMENT, **options
    )


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 60.0) -> None:
    """Wait until there is a file."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and what was said on the error stream."""
    _, text = process.communicate(timeout=120)
    return process.returncode, text


@pytest.mark.slow
def test_killed_with_two_workers_these_end_too_and_nothing_is_lost(
    forks: Forks, uninterrupted: tuple[Path, float], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = start(*STUDY, "--out", out, "--workers", 2)
    wait_for(out / "digits2" / "replicate-01" / "level-01", process)
    workers = psutil.Process(process.pid).children()
    time.sleep(random.Random(1).uniform(0, 0.3))
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    assert forks.wait(forks.start(*STUDY, "--out", out)) == 0
    assert digests(out) == digests(uninterrupted[0])
    assert left_over(out) == []


SENTENCE = "interrupted; every finished epoch is in {}. To continue: prunecca reproduce digits2 "


@pytest.mark.slow
def test_ctrl_c_exits_with_130_says_how_to_continue_and_leaves_nothing_half_written(
    forks: Forks, uninterrupted: tuple[Path, float], tmp_path: Path
) -> None:
    out, choose = tmp_path / "run", random.Random(2)
    for place in ("level-00", "replicate-00/level-01", "replicate-01/level-01"):
        process = forks.start(*STUDY, "--out", out)
        while not (out / "digits2" / place).exists():
            time.sleep(0.002)
        time.sleep(choose.uniform(0, 0.3))
        os.kill(process, signal.SIGINT)
        assert forks.wait(process) == 130
        assert forks.said(process).splitlines()[-1].startswith(SENTENCE.format(out))
        assert "Traceback" not in forks.said(process)
        assert list(out.rglob("*.partial*")) == []
        assert not (out / ".owner").exists()
    assert forks.wait(forks.start(*STUDY, "--out", out)) == 0
    assert digests(out) == digests(uninterrupted[0])


@pytest.mark.slow
def test_ctrl_c_leaves_no_worker(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(*STUDY, "--out", out, "--workers", 2)
    wait_for(out / "digits2" / "level-00" / "training.safetensors", process)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    code, text = finish(process)
    assert code == 130
    assert text.splitlines()[-1].startswith(SENTENCE.format(out))
    assert "Traceback" not in text
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_ctrl_c_while_it_is_loaded_is_a_sentence_too(tmp_path: Path) -> None:
    process = start(*STUDY, "--out", tmp_path / "run")
    loaded = 0.0
    while loaded < 0.15 and process.poll() is None:  # processor seconds: Python itself has started, torch has not
        time.sleep(0.005)
        loaded = sum(psutil.Process(process.pid).cpu_times()[:2])
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process) == (130, "\ninterrupted before anything was begun; nothing was written\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_second_command_on_one_folder_is_told_who_works_there(
    forks: Forks, uninterrupted: tuple[Path, float], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    one = [*STUDY, "--out", out]
    first = forks.start(*one)
    while not (out / "digits2" / "level-00").exists():
        time.sleep(0.002)
    second = forks.start(*one)
    assert forks.wait(second) == 1
    said = forks.said(second).strip()
    assert said.startswith(f"prunecca: {out} is being worked on by process {first} on ")
    assert said.endswith("; wait until that ends, or choose another --out")
    assert forks.wait(first) == 0
    assert digests(out) == digests(uninterrupted[0])


def test_under_torchrun_a_study_says_what_to_give_instead(tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "WORLD_SIZE": "2", "RANK": "1"}
    command = [sys.executable, "-m", "prunecca", *STUDY, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == ("prunecca: a study is one command; for more processes give --workers N, or --engine ray\n")
    assert not (tmp_path / "run").exists()
