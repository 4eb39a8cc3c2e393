"""The stages of a run on a CUDA device; ``benchmarks/cuda/run.sh`` says what they are and starts this.

Only Python's own library is used here, and nothing of prunecca is imported: it may not be built yet. ``$PYTHON`` names
the interpreter that has torch, else it is the one that runs this.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import checkers
from .machine import Machine
from .package import ensure_package
from .session import NOT_RUN, Command, Session
from .sources import ROOT

SECONDS = 540.0  # of one call
# Of each stage, where one call runs several; alone it has all. In this order: should time be short, figures are worth
# more than a second proof.
BUDGETS = {"build": 220.0, "tests": 110.0, "benchmarks": 130.0, "checkers": 540.0}
SECTIONS = {"covariance": 0.35, "pruning": 0.1, "networks": 0.3, "linalg": 0.25}  # of the time of the benchmarks
MOST_MEASURING = 360.0
_TEST_SECONDS = 90  # of each test
_MARK = re.compile(r"^\s*(pytestmark = \[?|@)pytest\.mark\.cuda\b", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What every stage is given.

    Args:
        session: notes and runs.
        machine: what is there.
        wheel: to be installed instead of building.
    """

    session: Session
    machine: Machine
    wheel: Path | None

    def why_not(self, stage: str) -> str | None:
        """Why nothing of a stage can run; the package is built or installed first, where it is needed."""
        if not self.machine.has_device:
            return "no CUDA device was found"
        if stage == "build" or ensure_package(self.session, self.machine, self.wheel):
            return None
        return "the package was not built"


def build(run: Run) -> None:
    """The package, its import, and what is missing of its dependencies."""
    ensure_package(run.session, run.machine, run.wheel)


def tests(run: Run) -> None:
    """Every file with tests that need a device, in a process of its own: an illegal access fails no other file."""
    session, files = run.session, files_of_tests()
    options = ["-q", "-m", "cuda", "-p", "no:cacheprovider", "-W", "default", "-o", "filterwarnings="]
    pytest = [run.machine.python, "-m", "pytest", *options]
    if session.dry:
        session.rehearse("tests", "collect", Command([*pytest, "--collect-only", *map(str, files)], 120.0, good=(0, 5)))
    if reason := run.why_not("tests"):
        session.note("tests", f"{len(files)} files", NOT_RUN + reason)
        return
    if "pytest_timeout" in run.machine.missing:
        session.note("tests", "a limit for each test", f"{NOT_RUN}pytest-timeout is not installed")
    else:
        # By a thread: a call that waits for the device answers to no signal.
        pytest += [f"--timeout={_TEST_SECONDS}", "--timeout-method=thread"]
    environment = {**run.machine.environment, "PRUNECCA_REQUIRE_CUDA": "1"}
    for file in files:
        name = str(file.relative_to(ROOT / "tests").with_suffix(""))
        session.run("tests", name, Command([*pytest, str(file)], 150.0, environment, good=(0, 5)))


def files_of_tests() -> list[Path]:
    """The files of tests that are marked as needing a device."""
    return sorted(file for file in (ROOT / "tests").rglob("test_*.py") if _MARK.search(file.read_text()))


def benchmarks(run: Run) -> None:
    """Each section in a process of its own; ``gpu.json`` and ``gpu.md`` grow by every row."""
    session, script = run.session, [run.machine.python, "-m", "benchmarks.cuda.run", str(run.session.out)]
    if session.dry:
        session.rehearse("benchmarks", "cases", Command([*script, "--dry-run"], 120.0))
    if reason := run.why_not("benchmarks"):
        session.note("benchmarks", ", ".join(SECTIONS), NOT_RUN + reason)
        return
    for file in ("gpu.json", "gpu.md"):
        (session.out / file).unlink(missing_ok=True)
    for number, (section, share) in enumerate(SECTIONS.items()):
        rest = share / sum(list(SECTIONS.values())[number:])
        seconds = max(5.0, rest * min(MOST_MEASURING, session.left - 30.0))
        words = [*script, "--only", section, "--seconds", f"{seconds:.0f}"]
        session.run("benchmarks", section, Command(words, seconds + 60.0, run.machine.environment))
        for half_written in session.out.glob(".gpu.*"):  # by a process that was ended
            half_written.unlink()


def check(run: Run) -> None:
    """The emulation's test programs under compute-sanitizer, then the way through torch."""
    if not checkers.programs():
        run.session.note("checkers", "programs", f"{NOT_RUN}{checkers.EMULATED} is not there")
    if reason := run.why_not("build"):
        run.session.note("checkers", ", ".join((*checkers.TOOLS, "torch")), NOT_RUN + reason)
        return
    checkers.check(run.session, run.machine)
    if reason := run.why_not("checkers"):
        run.session.note("checkers", "torch", NOT_RUN + reason)
    else:
        checkers.check_torch(run.session, run.machine)


STAGES: dict[str, Callable[[Run], None]] = {"build": build, "tests": tests, "benchmarks": benchmarks, "checkers": check}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/cuda/run.sh", description="The stages of a run on a CUDA device.")
    parser.add_argument("out", type=Path, help="receives stages.json, logs.tgz, gpu.json and gpu.md")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"{', '.join(STAGES)}; all where none is named")
    parser.add_argument("--wheel", type=Path, help="install this wheel of make_wheel.sh instead of building")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for the whole call")
    parser.add_argument("--dry-run", action="store_true", help="enter every stage, compile and measure nothing")
    parsed = parser.parse_args(given)
    unknown = [stage for stage in parsed.stages if stage not in STAGES]
    if unknown:
        parser.error(f"'{unknown[0]}' is no stage; expected {', '.join(STAGES)}")
    if parsed.wheel and not parsed.wheel.is_file():
        parser.error(f"{parsed.wheel} is not there; benchmarks/cuda/make_wheel.sh makes a wheel")
    return parsed


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    python = os.environ.get("PYTHON") or sys.executable
    work = Path(os.environ.get("PRUNECCA_WORK") or ROOT / "build" / "cuda")
    session = Session(chosen.out.resolve(), work.resolve(), chosen.seconds, chosen.dry_run)
    machine = Machine.found(shutil.which(python) or python, session.work / "package")
    print(machine.sentence(), flush=True)
    stages = [stage for stage in STAGES if stage in (chosen.stages or STAGES)]
    run = Run(session, machine, chosen.wheel.resolve() if chosen.wheel else None)
    if not machine.has_device and not session.dry:
        session.note("device", "found", "FAILED (no CUDA device was found: nvidia-smi and torch name none)")
    else:
        if "build" not in stages and machine.has_device:  # which all need: in its own time, not in theirs
            with session.at_most(BUDGETS["build"]):
                ensure_package(session, machine, run.wheel)
        for stage in stages:
            session.begin(stage)
            with session.at_most(BUDGETS[stage] if len(stages) > 1 else session.left):
                STAGES[stage](run)
    table = session.out / "gpu.md"
    if table.is_file():
        print(table.read_text())
    print(session.table())
    print(session.last_sentence())
    return int(any(step.failed for step in session.steps))


if __name__ == "__main__":
    sys.exit(main())
