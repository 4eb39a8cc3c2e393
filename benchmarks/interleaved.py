"""Rivals timed in turns, so that a busy moment of the machine meets all of them, and compared round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from prunecca.bench.timing import REST_SECONDS

_SHORT_SECONDS = 0.05


def interleaved(rivals: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each rival in each round; every round runs all of them, in turn.

    A short call comes after one that is not timed, which wakes the threads that slept while the rivals were apart.
    """
    short = set()
    for name, call in rivals.items():
        for _ in range(warmup):
            began = time.perf_counter()
            call()
            if time.perf_counter() - began < _SHORT_SECONDS:
                short.add(name)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, call in rivals.items():
            time.sleep(REST_SECONDS)
            if name in short:
                call()
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: Mapping[str, list[float]], slower: str, faster: str) -> float:
    """How many times faster: the median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(seconds[slower], seconds[faster], strict=True))
