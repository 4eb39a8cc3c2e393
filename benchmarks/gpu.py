"""The benchmarks of a CUDA device: every figure beside its rivals and beside the measured bandwidth of a copy.

    python benchmarks/gpu.py FOLDER [--seconds 150] [--only covariance pruning linalg networks]

Results are asserted against float64 or the host first. Writes ``gpu.json`` and ``gpu.md`` to the folder and prints the
table; ends with 1 when a result was wrong. ``benchmarks/gpu.sh FOLDER`` builds, tests and does this.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from device import covariance, linalg, networks, pruning
from device.bench import Bench, Contest, measure
from device.table import NotMeasured, Row, as_table

import prunecca as pc
from prunecca.machine.info import describe_machine

SECTIONS = {"covariance": covariance, "pruning": pruning, "linalg": linalg, "networks": networks}
# Of the time; what a section leaves goes to those after it.
SHARES = {"covariance": 0.45, "pruning": 0.2, "linalg": 0.2, "networks": 0.15}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks of a CUDA device.")
    parser.add_argument("folder", type=Path, help="where gpu.json and gpu.md are written")
    parser.add_argument("--seconds", type=float, default=150.0, help="for all contests together")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parsed = parser.parse_args(given)
    if parsed.seconds <= 0:
        parser.error(f"--seconds is {parsed.seconds:g}; expected more than 0")
    return parsed


def why_not() -> str | None:
    """What is missing for these benchmarks, in one sentence; None when all is there."""
    if not pc.build_info()["cuda"]:
        return "prunecca was built without CUDA; build it with PRUNECCA_CUDA=ON, as benchmarks/gpu.sh does"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device; benchmarks/predict_gpu.py says what the kernels would take on one"
    return None


def run(bench: Bench, sections: Sequence[str], seconds: float) -> dict[str, list[Row | NotMeasured]]:
    """Rows by section, within ``seconds``."""
    began = time.monotonic()
    rows: dict[str, list[Row | NotMeasured]] = {}
    until, total = began, sum(SHARES[name] for name in sections)
    for name in sections:
        until += seconds * SHARES[name] / total
        contests: list[Contest] = SECTIONS[name].contests()
        rows[name] = measure(contests, bench, until)
    return rows


def as_numbers(machine: dict[str, Any], copy: float, rows: dict[str, list[Row | NotMeasured]]) -> dict[str, Any]:
    """All results, fit for JSON."""
    contests = {name: [row.numbers() for row in of_section] for name, of_section in rows.items()}
    return {"machine": machine, "copy_bytes_per_second": copy, "contests": contests}


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


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    missing = why_not()
    if missing:
        print(missing, file=sys.stderr)
        return 2
    chosen.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + chosen.seconds
    bench = Bench.of_device()
    machine = describe_device(bench.device)
    rows = run(bench, chosen.only, end - time.monotonic())
    every = [row for of_section in rows.values() for row in of_section]
    head = f"{machine['device']}, torch {machine['torch']}, prunecca {machine['prunecca']}: a copy moves {bench.copy / 1e12:.2f} TB/s"
    text = f"{head}\n\n{as_table(every)}\n"
    (chosen.folder / "gpu.json").write_text(json.dumps(as_numbers(machine, bench.copy, rows), indent=1))
    (chosen.folder / "gpu.md").write_text(text)
    print(text)
    return int(any(isinstance(row, NotMeasured) and row.failed for row in every))


if __name__ == "__main__":
    sys.exit(main())
