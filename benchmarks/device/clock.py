"""Time on a device: events around a call whose host part is already done, the cache flushed before, rivals in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

Call = Callable[[], Any]
Seconds = Mapping[str, Sequence[float]]

_AHEAD_CYCLES = 1_000_000  # about half a millisecond that the device waits, while the host queues the call
_COPY_BYTES = 1 << 30


class Clock(Protocol):
    """Seconds that one call takes."""

    def sample(self, call: Call) -> float: ...


class DeviceClock:
    """By CUDA events: what the device does, without the host's part of a call unless the device waits for it."""

    def __init__(self, device: torch.device) -> None:
        properties = torch.cuda.get_device_properties(device)
        # Twice the cache: what a call left there, or found there, is gone.
        self._flush = torch.empty(2 * max(32 << 20, properties.L2_cache_size), dtype=torch.uint8, device=device)
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def sample(self, call: Call) -> float:
        torch.cuda.synchronize()
        self._flush.zero_()
        torch.cuda._sleep(_AHEAD_CYCLES)
        self._events[0].record()
        call()
        self._events[1].record()
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) * 1e-3


class HostClock:
    """By the host's clock, from an idle device to an idle device: for calls that read results back."""

    def sample(self, call: Call) -> float:
        _wait()
        began = time.perf_counter()
        call()
        _wait()
        return time.perf_counter() - began


def race(clock: Clock, rivals: Mapping[str, Call], seconds: float, rounds: tuple[int, int] = (5, 50)) -> Seconds:
    """Samples of each rival, in turns A B C A B C, for about ``seconds`` within the bounds of ``rounds``.

    Every rival runs once before, untimed: modules are loaded, plans made, caches of memory filled.
    """
    for call in rivals.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    end = time.perf_counter() + seconds
    done = 0
    while done < rounds[0] or (time.perf_counter() < end and done < rounds[1]):
        for name, call in rivals.items():
            taken[name].append(clock.sample(call))
        done += 1
    return taken


def ratio(seconds: Seconds, slower: str, faster: str) -> float:
    """How many times faster: the ratio of the medians."""
    return statistics.median(seconds[slower]) / statistics.median(seconds[faster])


def copy_bandwidth(clock: Clock, device: torch.device, size: int = _COPY_BYTES) -> float:
    """Bytes per second of a copy within the device's memory, those read and those written counted; a median of 15."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    samples = race(clock, {"copy": lambda: target.copy_(source)}, 1.0, (15, 15))
    if not torch.equal(source, target):
        raise AssertionError("a copy within the device's memory is not what was copied")
    return 2 * size / statistics.median(samples["copy"])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
