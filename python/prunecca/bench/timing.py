"""Rivals timed in turns, A B C A B C ..., so that a busy moment of the machine meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..machine.peaks import fma_rate

Call = Callable[[], Any]

_SAMPLE_SECONDS = 0.03  # shorter calls are repeated within a sample, after one that wakes the sleeping threads
# Between samples: the threads of NumPy's OpenBLAS go on spinning for a tenth of a second (measured), and would take the
# cores from the next rival.
REST_SECONDS = 0.15


@dataclass(frozen=True)
class Work:
    """What one call has to do, whoever does it: floating-point operations, bytes that must be moved, rows of data."""

    operations: float = 0.0
    bytes: float = 0.0
    rows: int = 0
    float64: bool = False


@dataclass(frozen=True)
class Contest:
    """Rivals that do the same work.

    ours: the name of the rival the others are held against.
    check: is given every rival's result and raises ``AssertionError`` where they do not agree; returns what to report.
    """

    rivals: Mapping[str, Call]
    check: Callable[[dict[str, Any]], dict[str, float]]
    work: Work = Work()
    ours: str = "prunecca"
    cleanup: Call = field(default=lambda: None)


@dataclass(frozen=True)
class Outcome:
    """Seconds per call of every rival in every round, and the rate of multiply-adds (GFLOP/s) in the same rounds."""

    seconds: Mapping[str, list[float]]
    peaks: list[float]
    work: Work
    ours: str
    reported: Mapping[str, float]

    def median(self, rival: str) -> float:
        return statistics.median(self.seconds[rival])

    def times_faster(self, rival: str) -> float:
        """How many times faster ours is: median over the rounds of the ratio within the round."""
        return statistics.median(b / a for a, b in zip(self.seconds[self.ours], self.seconds[rival], strict=True))

    def fraction_of_peak(self, rival: str) -> float:
        """Of the multiply-add rate measured in the same round; median over the rounds."""
        rates = zip(self.seconds[rival], self.peaks, strict=True)
        return statistics.median(self.work.operations / s / 1e9 / p for s, p in rates)

    def row(self, rival: str) -> dict[str, Any]:
        """All figures of one rival, fit for JSON."""
        seconds, work = self.median(rival), self.work
        row: dict[str, Any] = {
            "seconds": seconds,
            "rounds": len(self.peaks),
            "ours_times_faster": self.times_faster(rival),
        }
        if work.operations:
            row |= {"operations": work.operations, "gflops": work.operations / seconds / 1e9}
            row |= {"peak_gflops": statistics.median(self.peaks), "fraction_of_peak": self.fraction_of_peak(rival)}
        if work.bytes:
            row |= {"bytes": work.bytes, "gbytes_per_second": work.bytes / seconds / 1e9}
        if work.rows:
            row |= {"rows_per_second": work.rows / seconds}
        return row | (dict(self.reported) if rival == self.ours else {})


def run(contest: Contest, *, seconds: float = 6.0, rounds: tuple[int, int] = (5, 40)) -> Outcome:
    """Check that the rivals agree, then time them for about ``seconds`` within the bounds of ``rounds``.

    The fused multiply-add probe runs as one more rival, so that fractions of the peak are of the same moment.
    """
    threads = torch.get_num_threads()
    try:
        reported = contest.check({name: call() for name, call in contest.rivals.items()})
        loops = {name: _loops(call) for name, call in contest.rivals.items()}
        taken: dict[str, list[float]] = {name: [] for name in contest.rivals}
        peaks: list[float] = []
        end = time.perf_counter() + seconds
        while len(peaks) < rounds[0] or (time.perf_counter() < end and len(peaks) < rounds[1]):
            for name, call in contest.rivals.items():
                time.sleep(REST_SECONDS)
                if loops[name] > 1:
                    call()
                began = time.perf_counter()
                for _ in range(loops[name]):
                    call()
                taken[name].append((time.perf_counter() - began) / loops[name])
            time.sleep(REST_SECONDS)
            peaks.append(fma_rate(threads=threads, float64=contest.work.float64))
    finally:
        contest.cleanup()
    return Outcome(taken, peaks, contest.work, contest.ours, reported)


def _loops(call: Call) -> int:
    call()
    began = time.perf_counter()
    call()
    return max(1, int(_SAMPLE_SECONDS / (time.perf_counter() - began + 1e-9)))
