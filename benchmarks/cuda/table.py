"""What was measured, as rows: a table to read, numbers for a file, and whether what was aimed at was reached."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prunecca.bench.timing import Seconds, ratio

OURS = "prunecca"


@dataclass(frozen=True)
class Aim:
    """A figure and the least it should be."""

    name: str
    value: float
    least: float

    @property
    def met(self) -> bool:
        return self.value >= self.least  # not so for a NaN


@dataclass(frozen=True)
class Row:
    """One case. seconds: samples of each rival, ours under ``OURS``. bytes, operations: what one call has to do.

    copy: measured bandwidth of a copy on the same device, bytes per second. error: of the result, as stated in ``what``
    or relative against float64. reported: other numbers.
    """

    what: str
    seconds: Seconds
    bytes: float = 0.0
    operations: float = 0.0
    copy: float = 0.0
    error: float | None = None
    aims: tuple[Aim, ...] = ()
    reported: Mapping[str, float] = field(default_factory=dict)

    @property
    def ours(self) -> float:
        """Median seconds of ours."""
        return statistics.median(self.seconds[OURS])

    @property
    def of_copy(self) -> float:
        """Fraction of the copy's bandwidth that ours reaches; NaN where no bytes were counted."""
        return self.bytes / self.ours / self.copy if self.bytes and self.copy else float("nan")

    def numbers(self) -> dict[str, Any]:
        """Everything, fit for JSON."""
        rivals = {
            name: {
                "median_seconds": statistics.median(samples),
                "least_seconds": min(samples),
                "rounds": len(samples),
                "ours_times_faster": ratio(self.seconds, name, OURS),
            }
            for name, samples in self.seconds.items()
        }
        numbers: dict[str, Any] = {"what": self.what, "rivals": rivals, "error": self.error}
        if self.bytes:
            numbers |= {"bytes": self.bytes, "bytes_per_second": self.bytes / self.ours}
            numbers |= {"of_copy_bandwidth": self.of_copy} if self.copy else {}
        if self.operations:
            numbers |= {"operations": self.operations, "operations_per_second": self.operations / self.ours}
        numbers["aims"] = [{"name": a.name, "value": a.value, "least": a.least, "met": a.met} for a in self.aims]
        return numbers | dict(self.reported)


@dataclass(frozen=True)
class NotMeasured:
    """A case without a result, and why: its result was wrong, or the time was over."""

    what: str
    why: str
    failed: bool

    def numbers(self) -> dict[str, Any]:
        return {"what": self.what, "not_measured": self.why, "failed": self.failed}


def as_table(rows: Sequence[Row | NotMeasured]) -> str:
    """A Markdown table: our time and rate, every rival's time as a multiple of ours, aims and whether they were met."""
    lines = ["| what | time | rate | rivals take | aims |", "|---|---:|---:|---|---|"]
    for row in rows:
        if isinstance(row, NotMeasured):
            lines.append(f"| {row.what} | {'FAILED' if row.failed else 'not run'} | | {row.why} | |")
            continue
        rivals = ", ".join(f"{n} {ratio(row.seconds, n, OURS):.2f}x" for n in row.seconds if n != OURS)
        aims = ", ".join(
            f"{'met' if a.met else 'MISSED'}: {a.name} {a.value:.2f} (at least {a.least:g})" for a in row.aims
        )
        lines.append(f"| {row.what} | {_time(row.ours)} | {_rate(row)} | {rivals} | {aims} |")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def _rate(row: Row) -> str:
    parts = []
    if row.bytes:
        parts.append(
            f"{row.bytes / row.ours / 1e9:.0f} GB/s" + (f" = {100 * row.of_copy:.0f} % of copy" if row.copy else "")
        )
    if row.operations:
        parts.append(f"{row.operations / row.ours / 1e12:.3g} TFLOP/s")
    return ", ".join(parts)
