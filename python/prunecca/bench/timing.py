"""Rivals timed in turns, A B C A B C ..., so that a busy moment of the machine meets all of them alike.

``take_turns`` is the only timing loop: the benchmarks of the host and of a device differ in the clock they give it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ..machine.peaks import fma_rate

Call = Callable[[], Any]
Seconds = Mapping[str, Sequence[float]]


def _nothing() -> None:
    pass


def _no_errors(_: dict[str, Any]) -> dict[str, float]:
    return {}


@dataclass(frozen=True)
class Work:
    """What one call has to do, whoever does it.

    Args:
        operations: floating-point operations.
        bytes: that must be moved.
        rows: of data.
        float64: whether the operations are.
    """

    operations: float = 0.0
    bytes: float = 0.0
    rows: int = 0
    float64: bool = False


@dataclass(frozen=True)
class Contest:
    """Rivals that do the same work.

    Args:
        rivals: calls by name.
        check: is given every rival's result and raises ``AssertionError`` where they do not agree; returns what to
            report.
        work: what each of them does.
        ours: the name of the rival the others are held against.
        cleanup: called at the end, whatever happened.
        errors: is given every rival's result, too; returns the relative errors of rivals other than ours, by name.
    """

    rivals: Mapping[str, Call]
    check: Callable[[dict[str, Any]], dict[str, float]]
    work: Work = Work()
    ours: str = "prunecca"
    cleanup: Call = field(default=_nothing)
    errors: Callable[[dict[str, Any]], dict[str, float]] = field(default=_no_errors)


class Clock(Protocol):
    """Seconds that one call takes."""

    def sample(self, call: Call) -> float: ...


@dataclass(frozen=True)
class HostClock:
    """By the host's clock.

    Args:
        rest: seconds before each sample. The threads of NumPy's OpenBLAS go on spinning for a tenth of a second
            (measured), and would take the cores from the next rival.
        short: a call of fewer seconds has only woken the threads that slept while the rivals were apart: it is
            repeated, and the repetitions are timed. 0 where a call must not run more often than the clock is asked.
        fill: seconds that these repetitions are to take together.
        wait: waits for what a call has queued on a device.
    """

    rest: float = 0.15
    short: float = 0.05
    fill: float = 0.03
    wait: Call = _nothing

    def sample(self, call: Call) -> float:
        """Rest, then time ``call``."""
        time.sleep(self.rest)
        seconds = self._timed(call, 1)
        if seconds < self.short:
            seconds = self._timed(call, max(1, int(self.fill / (seconds + 1e-9))))
        return seconds

    def _timed(self, call: Call, repeats: int) -> float:
        self.wait()
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        self.wait()
        return (time.perf_counter() - began) / repeats


def take_turns(
    rivals: Mapping[str, Call],
    clock: Clock,
    seconds: float = 0.0,
    rounds: tuple[int, int] = (5, 40),
    each_round: Call = _nothing,
    warmup: int = 1,
) -> dict[str, list[float]]:
    """Samples of each rival, in turns, for about ``seconds`` within the bounds of ``rounds``.

    Every rival runs before, untimed: code is loaded, plans are made, caches of memory filled.

    Args:
        rivals: calls by name.
        clock: what takes a sample.
        seconds: after which no new round begins.
        rounds: the fewest and the most.
        each_round: called at the end of each.
        warmup: untimed calls of each rival.

    Returns:
        Seconds of each rival, one number per round.
    """
    for call in rivals.values():
        for _ in range(warmup):
            call()
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    end = time.perf_counter() + seconds
    done = 0
    while done < rounds[0] or (time.perf_counter() < end and done < rounds[1]):
        for name, call in rivals.items():
            taken[name].append(clock.sample(call))
        each_round()
        done += 1
    return taken


def ratio(seconds: Seconds, slower: str, faster: str) -> float:
    """How many times faster: the median over the rounds of the ratio within a round.

    Where one was timed in fewer rounds than the other, as a rival that takes minutes is, the ratio of the medians.
    """
    if len(seconds[slower]) != len(seconds[faster]):
        return statistics.median(seconds[slower]) / statistics.median(seconds[faster])
    return statistics.median(a / b for a, b in zip(seconds[slower], seconds[faster], strict=True))


@dataclass(frozen=True)
class Outcome:
    """Seconds per call of every rival in every round, and the rate of multiply-adds (GFLOP/s) in the same rounds."""

    seconds: Mapping[str, list[float]]
    peaks: list[float]
    work: Work
    ours: str
    reported: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)

    def fraction_of_peak(self, rival: str) -> float:
        """Median rate, of the best multiply-add rate that was measured: another load slows probes as it slows rivals."""
        return self.work.operations / statistics.median(self.seconds[rival]) / 1e9 / max(self.peaks)

    def row(self, rival: str) -> dict[str, Any]:
        """All figures of one rival, fit for JSON."""
        seconds, work = statistics.median(self.seconds[rival]), self.work
        row: dict[str, Any] = {
            "seconds": seconds,
            "rounds": len(self.peaks),
            "ours_times_faster": ratio(self.seconds, rival, self.ours),
        }
        if work.operations:
            row |= {"operations": work.operations, "gflops": work.operations / seconds / 1e9}
            row |= {"peak_gflops": max(self.peaks), "lowest_peak_gflops": min(self.peaks), "float64": work.float64}
            row |= {"fraction_of_peak": self.fraction_of_peak(rival)}
        if work.bytes:
            row |= {"bytes": work.bytes, "gbytes_per_second": work.bytes / seconds / 1e9}
        if work.rows:
            row |= {"rows_per_second": work.rows / seconds}
        if rival in self.errors:
            row |= {"relative_error": self.errors[rival]}
        return row | (dict(self.reported) if rival == self.ours else {})


def run(contest: Contest, *, seconds: float = 6.0, rounds: tuple[int, int] = (5, 40)) -> Outcome:
    """Check that the rivals agree, then time them for about ``seconds`` within the bounds of ``rounds``.

    The fused multiply-add probe runs at the end of each round: the best of them is the peak, and where they differ much
    the machine was busy.
    """
    threads, clock = torch.get_num_threads(), HostClock()
    peaks: list[float] = []

    def probe() -> None:
        time.sleep(clock.rest)
        peaks.append(fma_rate(threads=threads, float64=contest.work.float64))

    try:
        results = {name: call() for name, call in contest.rivals.items()}
        reported, errors = contest.check(results), contest.errors(results)
        del results
        taken = take_turns(contest.rivals, clock, seconds, rounds, probe)
    finally:
        contest.cleanup()
    return Outcome(taken, peaks, contest.work, contest.ours, reported, errors)
