"""compute-sanitizer on the kernels: the emulation's own test programs, run on the device.

    python -m benchmarks.cuda.device_run.checkers FOLDER ARCHITECTURE

builds the programs, with nvcc and without a device. Their tests then run as they do on the host, and what these ask of
the programs is recorded; each checker is given the records, so that it watches a small process for seconds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .machine import Machine, tool
from .session import NOT_RUN, Command, Session
from .sources import ROOT, digest_of

EMULATED = Path("tests/cuda/emulated")
HARNESS = ROOT / "benchmarks" / "cuda" / "harness"
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
_PLANTED = "planted"  # mistakes on purpose
_REFUSALS = {"device not supported": "compute-sanitizer refuses this machine's device"}


def programs() -> list[str]:
    """The names of the emulation's test programs, without the one of planted mistakes."""
    return sorted(file.stem for file in (ROOT / EMULATED).glob("*.cpp") if file.stem != _PLANTED)


def tests_of(program: str) -> list[Path]:
    """The files of tests that build a program, from the root of the sources."""
    asks = re.compile(rf'\bbuild\(\w+, "{program}"')
    files = (file for file in sorted((ROOT / EMULATED).glob("test_*.py")) if asks.search(file.read_text()))
    return [file.relative_to(ROOT) for file in files]


def check(session: Session, machine: Machine) -> None:
    """Build the programs, run their tests on the device, then every checker on every program."""
    folder, requests = session.work / "programs", session.work / "requests"
    if tool("nvcc") is None and not _built(folder):
        session.note("checkers", "programs", f"{NOT_RUN}nvcc is not there")
        return
    words = [sys.executable, "-m", "benchmarks.cuda.device_run.checkers", str(folder), machine.architecture]
    session.run("checkers", "programs", Command(words, 300.0))
    there = [name for name in programs() if (folder / name).is_file()]
    shutil.rmtree(requests, ignore_errors=True)
    requests.mkdir(parents=True)
    for name in there:
        _run_tests(session, machine, name, requests / name)
    checker = tool("compute-sanitizer")
    if checker is None:
        session.note("checkers", ", ".join(TOOLS), f"{NOT_RUN}compute-sanitizer is not there")
        return
    for name_of_tool in TOOLS:
        for name in there:
            step, environment = f"{name_of_tool} {name}", {"PRUNECCA_REQUESTS": str(requests / name)}
            if not (requests / name).is_file():
                session.note("checkers", step, f"{NOT_RUN}its tests asked for nothing")
                continue
            if name_of_tool == "initcheck":
                environment["PRUNECCA_UNWRITTEN"] = "1"
            words = [checker, "--tool", name_of_tool, "--error-exitcode", "9", str(folder / name)]
            session.run("checkers", step, Command(words, 60.0, environment, refusals=_REFUSALS))


def check_torch(session: Session, machine: Machine) -> None:
    """The way through torch, once: every tensor is an allocation of its own."""
    checker = tool("compute-sanitizer")
    if checker is None:
        session.note("checkers", "torch", f"{NOT_RUN}compute-sanitizer is not there")
        return
    environment = {**machine.environment, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    words = [checker, "--tool", "memcheck", "--error-exitcode", "9", machine.python, "benchmarks/cuda/exercise.py"]
    session.run("checkers", "torch", Command(words, 200.0, environment, refusals=_REFUSALS))


def _run_tests(session: Session, machine: Machine, name: str, record: Path) -> None:
    """The tests of one program, with the program for the device in place of the emulation."""
    cache = session.work / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    environment = {
        "CXX": str(HARNESS / "compiler.sh"),
        "PRUNECCA_PROGRAMS": str(session.work / "programs"),
        "PRUNECCA_RECORD": str(record),
    }
    options = ["-q", "-W", "default", "-o", "filterwarnings=", "-o", f"cache_dir={cache}"]
    words = [machine.python, "-m", "pytest", *options, *map(str, tests_of(name))]
    command = Command(words, 90.0, {**machine.environment, **environment}, good=(0, 5))
    session.run("checkers", f"tests of {name}", command)


def _built(folder: Path) -> bool:
    stamp = folder / "sources"
    return stamp.is_file() and stamp.read_text() == _digest()


def _digest() -> str:
    return digest_of(ROOT, ("csrc", str(EMULATED), str(HARNESS.relative_to(ROOT))))


def build(folder: Path, architecture: str) -> int:
    """Compile all programs at once, unless they are there; 1 when one does not compile."""
    if _built(folder):
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    # Copied, because a program finds the harness beside itself first.
    (folder / "src").mkdir(parents=True)
    number = re.sub(r"\D*$", "", architecture.removesuffix("-real").removesuffix("a"))
    number += "a" if architecture.startswith("90a") else ""
    compilers = {}
    for name in programs():
        source = folder / "src" / f"{name}.cu"
        shutil.copyfile(ROOT / EMULATED / f"{name}.cpp", source)
        words = [tool("nvcc") or "nvcc", "-std=c++20", "-O2", "-lineinfo", f"-I{ROOT / 'csrc'}", f"-I{HARNESS}"]
        words += [f"-gencode=arch=compute_{number},code=sm_{number}", str(source), "-o", str(folder / name)]
        compilers[name] = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    failed = _failed(compilers)
    if not failed:
        (folder / "sources").write_text(_digest())
    return int(bool(failed))


def _failed(compilers: dict[str, subprocess.Popen[str]]) -> list[str]:
    failed = []
    for name, compiler in compilers.items():
        said, _ = compiler.communicate()
        print(f"{name}: {'compiled' if compiler.returncode == 0 else 'NOT COMPILED'}\n{said}", flush=True)
        failed += [name] if compiler.returncode else []
    return failed


def main(given: Sequence[str]) -> int:
    if len(given) != 2:
        print("usage: python -m benchmarks.cuda.device_run.checkers FOLDER ARCHITECTURE", file=sys.stderr)
        return 2
    if not programs():
        print(f"{EMULATED} has no test programs in {os.getcwd()}", file=sys.stderr)
        return 2
    return build(Path(given[0]), given[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
