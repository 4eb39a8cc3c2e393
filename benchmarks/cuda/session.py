"""One call of ``run.sh``: commands with a limit each, their states, and the few files that are carried away.

Only Python's own library is used: this runs where nothing of ours has been built yet.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .sources import ROOT

GOOD = "good"
NOT_RUN = "not run: "
_MOST_LOG = 1 << 20  # bytes of each log that are carried away: its beginning and its end
_LEAST = 5.0  # seconds without which nothing is begun


@dataclass(frozen=True)
class Step:
    """One command of a stage, or the reason why there was none.

    Args:
        stage: build, tests, checkers or benchmarks.
        step: its name within the stage.
        state: ``good``, or what was wrong, or ``not run: `` and the reason.
        seconds: that it took.
    """

    stage: str
    step: str
    state: str
    seconds: float

    @property
    def failed(self) -> bool:
        return self.state != GOOD and not self.state.startswith(NOT_RUN)


@dataclass(frozen=True)
class Command:
    """What a step runs.

    Args:
        words: the program and its arguments.
        limit: seconds after which it is killed with all that it has started.
        environment: variables beside those of this process.
        good: exit statuses that are no failure.
        refusals: sentences of its output by which a tool says that it cannot work here, and the reason to report.
    """

    words: Sequence[str]
    limit: float
    environment: Mapping[str, str] = field(default_factory=dict)
    good: Sequence[int] = (0,)
    refusals: Mapping[str, str] = field(default_factory=dict)


class Session:
    """Steps, noted in ``stages.json`` as they end.

    Args:
        out: the folder that is carried away; at most ``gpu.json``, ``gpu.md``, ``stages.json`` and ``logs.tgz``.
        work: the folder that stays: what was built, and the logs as they are written.
        seconds: for all commands together.
        dry: commands are named and not run.
    """

    def __init__(self, out: Path, work: Path, seconds: float, dry: bool = False) -> None:
        self.out, self.work, self.dry = out, work, dry
        self.logs = work / "logs"
        self.end = time.monotonic() + seconds
        self.steps: list[Step] = []
        self.before: list[Step] = []
        for folder in (out, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        if (out / "stages.json").is_file():
            self.before = [Step(**step) for step in json.loads((out / "stages.json").read_text())]

    @property
    def left(self) -> float:
        """Seconds until all commands have to be over."""
        return self.end - time.monotonic()

    @contextlib.contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """No more than these for the commands that follow."""
        end, self.end = self.end, min(self.end, time.monotonic() + seconds)
        try:
            yield
        finally:
            self.end = end

    def begin(self, stage: str) -> None:
        """Forget what an earlier call found of a stage."""
        self.before = [step for step in self.before if step.stage != stage]
        for log in self.logs.glob(f"{stage}-*.log"):
            log.unlink()

    def note(self, stage: str, step: str, state: str, seconds: float = 0.0) -> bool:
        """Write one more state; whether it is good."""
        self.steps.append(Step(stage, step, state, round(seconds, 1)))
        print(f"== {stage} {step}: {state} ({seconds:.0f} s)", flush=True)
        self.write()
        return state == GOOD

    def run(self, stage: str, step: str, command: Command) -> bool:
        """Run a command, its output to a log of its own; whether it was good."""
        if self.dry:
            return self.note(stage, step, f"{NOT_RUN}this is a dry run")
        return self._run(stage, step, command)

    def rehearse(self, stage: str, step: str, command: Command) -> bool:
        """Run a command of a dry run."""
        return self._run(stage, step, command)

    def _run(self, stage: str, step: str, command: Command) -> bool:
        if self.left < _LEAST:
            return self.note(stage, step, f"{NOT_RUN}no time was left")
        log = self.logs / f"{stage}-{step.replace('/', '.').replace(' ', '-')}.log"
        limit, began = min(command.limit, self.left), time.monotonic()
        with open(log, "wb") as stream:
            code = _code_of(command, limit, stream.fileno())
        seconds, text = time.monotonic() - began, log.read_text(errors="replace")
        for sentence, reason in command.refusals.items():
            if code not in command.good and sentence in text.lower():
                return self.note(stage, step, NOT_RUN + reason, seconds)
        if code is None:
            return self.note(stage, step, f"over its {limit:.0f} s", seconds)
        if code not in command.good:
            print("\n".join(text.splitlines()[-15:]), flush=True)
            return self.note(stage, step, f"FAILED ({code})", seconds)
        return self.note(stage, step, GOOD, seconds)

    def write(self) -> None:
        """``stages.json`` and ``logs.tgz``: all that is known so far."""
        steps = [asdict(step) for step in (*self.before, *self.steps)]
        _replace(self.out / "stages.json", json.dumps(steps, indent=1).encode())
        partial = self.work / "logs.tgz"
        with tarfile.open(partial, "w:gz") as archive:
            for log in sorted(self.logs.glob("*.log")):
                archive.add(_shortened(log), arcname=f"logs/{log.name}")
        _replace(self.out / "logs.tgz", partial.read_bytes())

    def table(self) -> str:
        """A Markdown table of this call's steps."""
        lines = ["| stage | step | state | time |", "|---|---|---|---:|"]
        return "\n".join(lines + [f"| {s.stage} | {s.step} | {s.state} | {s.seconds:.0f} s |" for s in self.steps])

    def last_sentence(self) -> str:
        """What could not run and what was wrong, in one sentence."""
        failed = [f"{step.stage} {step.step}: {step.state}" for step in self.steps if step.failed]
        reasons: dict[str, list[str]] = {}
        for step in self.steps:
            if step.state.startswith(NOT_RUN):
                reasons.setdefault(step.state.removeprefix(NOT_RUN), []).append(f"{step.stage} {step.step}")
        skipped = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
        parts = ["wrong: " + ", ".join(failed)] if failed else []
        parts += ["not run: " + "; ".join(skipped)] if skipped else []
        sentence = "; ".join(parts) or "all that was asked for ran and was good"
        return f"{sentence[0].upper()}{sentence[1:]}."


def _code_of(command: Command, limit: float, stream: int) -> int | None:
    """The exit status; None when the limit was over. 127 when there is no such program."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **command.environment}
    try:
        process = subprocess.Popen(
            command.words, cwd=ROOT, env=environment, stdout=stream, stderr=stream, start_new_session=True
        )
    except OSError as error:
        os.write(stream, f"{command.words[0]}: {error}\n".encode())
        return 127
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has started ends with it
        process.wait()


def _shortened(log: Path) -> Path:
    content = log.read_bytes()
    if len(content) <= _MOST_LOG:
        return log
    short = log.with_suffix(".short")
    half = _MOST_LOG // 2
    short.write_bytes(content[:half] + b"\n... left out ...\n" + content[-half:])
    return short


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
