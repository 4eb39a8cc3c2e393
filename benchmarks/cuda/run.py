"""The benchmarks of a CUDA device: every figure beside its rivals and beside the measured bandwidth of a copy.

    python -m benchmarks.cuda.run FOLDER [--seconds 150] [--only covariance pruning networks linalg] [--dry-run]

Results are asserted against float64 or the host first. ``gpu.json`` and ``gpu.md`` are written to the folder after every
row; sections that are there from an earlier call stay. Ends with 1 when a result was wrong. ``benchmarks/cuda/run.sh
FOLDER`` builds, tests and does this.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import prunecca as pc
from prunecca.machine.info import describe_machine
from prunecca.storage.atomic import write_atomic

from . import covariance, linalg, networks, pruning
from .clock import Bench, Case
from .table import NotMeasured, Row, as_table

# In this order: the last one's last rival takes longest.
SECTIONS: dict[str, Callable[[], list[Case]]] = {
    "covariance": covariance.cases,
    "pruning": pruning.cases,
    "networks": networks.cases,
    "linalg": linalg.cases,
}
# Of the time; what a section leaves goes to those after it.
SHARES = {"covariance": 0.45, "pruning": 0.15, "networks": 0.15, "linalg": 0.25}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks of a CUDA device.")
    parser.add_argument("folder", type=Path, help="where gpu.json and gpu.md are written")
    parser.add_argument("--seconds", type=float, default=150.0, help="for all cases together")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--dry-run", action="store_true", help="name the cases and measure none")
    parsed = parser.parse_args(given)
    if parsed.seconds <= 0:
        parser.error(f"--seconds is {parsed.seconds:g}; expected more than 0")
    return parsed


def why_not() -> str | None:
    """What is missing for these benchmarks, in one sentence; None when all is there."""
    if not pc.build_info()["cuda"]:
        return "prunecca was built without CUDA; build it with PRUNECCA_CUDA=ON, as benchmarks/cuda/run.sh does"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device; benchmarks/cuda/predict.py says what the kernels would take on one"
    return None


def measure(cases: list[Case], bench: Bench, until: float) -> Iterator[Row | NotMeasured]:
    """One after another until ``time.monotonic()`` is ``until``; what is wrong or comes too late is a row as well."""
    broken = ""
    for what, case in cases:
        if broken:
            yield NotMeasured(what, broken, failed=False)
            continue
        if time.monotonic() >= until:
            yield NotMeasured(what, "the time was over", failed=False)
            continue
        try:
            row = case(bench)
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
            yield row
        except Exception as error:  # the other cases still have something to say
            why = " ".join(f"{type(error).__name__}: {error}".split())
            yield NotMeasured(what, why[:200], failed=True)
            # An illegal access is told by every later call, whoever makes it: it is the fault of this case alone.
            broken = "" if _answers(bench.device) else f"the device does not answer since '{what}'"


def _answers(device: torch.device) -> bool:
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


class Results:
    """``gpu.json`` and ``gpu.md`` of a folder, written anew with every row.

    Args:
        folder: made where it is not there.
        machine: as ``describe_device`` gives it.
        copy: bytes per second, read plus written.
    """

    def __init__(self, folder: Path, machine: dict[str, Any], copy: float) -> None:
        self.folder, self.machine, self.copy = folder, machine, copy
        folder.mkdir(parents=True, exist_ok=True)
        before = folder / "gpu.json"
        self.contests: dict[str, Any] = json.loads(before.read_text())["contests"] if before.is_file() else {}

    def begin(self, section: str) -> None:
        """Forget what an earlier call found of a section."""
        self.contests[section] = []

    def add(self, section: str, row: Row | NotMeasured) -> None:
        """Write one more row."""
        self.contests.setdefault(section, []).append({**row.numbers(), "table": as_table([row]).splitlines()[2]})
        write_atomic(self.folder / "gpu.json", json.dumps(self.numbers(), indent=1).encode())
        write_atomic(self.folder / "gpu.md", self.text().encode())

    def numbers(self) -> dict[str, Any]:
        """All results, fit for JSON."""
        return {"machine": self.machine, "copy_bytes_per_second": self.copy, "contests": self.contests}

    def text(self) -> str:
        """The machine in one line, then the table of all sections."""
        name, torch_version, version = (self.machine.get(key) for key in ("device", "torch", "prunecca"))
        head = f"{name}, torch {torch_version}, prunecca {version}: a copy moves {self.copy / 1e12:.2f} TB/s"
        lines = [row["table"] for name in SECTIONS for row in self.contests.get(name, ())]
        return "\n".join([head, "", as_table([]), *lines]) + "\n"


def describe_device(device: torch.device) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    return {
        **describe_machine(),
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30),
        "cuda": torch.version.cuda,
        "architectures": pc.build_info()["cuda_architectures"],
    }


def run(bench: Bench, chosen: Sequence[str], seconds: float, results: Results) -> bool:
    """Measure the chosen sections within ``seconds``; whether no result was wrong."""
    until, total, good = time.monotonic(), sum(SHARES[name] for name in chosen), True
    for section in (name for name in SECTIONS if name in chosen):
        until += seconds * SHARES[section] / total
        results.begin(section)
        for row in measure(SECTIONS[section](), bench, until):
            results.add(section, row)
            print(as_table([row]).splitlines()[2], flush=True)
            good = good and not (isinstance(row, NotMeasured) and row.failed)
    return good


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    missing = why_not()
    if chosen.dry_run:
        for section in chosen.only:
            print(f"{section}: {len(SECTIONS[section]())} cases")
        print(missing or "the device is there")
        return 0
    if missing:
        print(missing, file=sys.stderr)
        return 2
    end = time.monotonic() + chosen.seconds
    bench = Bench.of_device()
    results = Results(chosen.folder, describe_device(bench.device), bench.copy)
    good = run(bench, chosen.only, end - time.monotonic(), results)
    print(results.text())
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
