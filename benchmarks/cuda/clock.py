"""Time on a device: events around a call whose host part is already done, the cache flushed before."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from prunecca.bench.timing import Call, Clock, HostClock, Seconds, take_turns

_AHEAD_CYCLES = 1_000_000  # about half a millisecond that the device waits, while the host queues the call
_COPY_BYTES = 1 << 30


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


def wall_clock() -> HostClock:
    """By the host's clock, from an idle device to an idle device: for calls that read results back."""
    return HostClock(rest=0.0, short=0.0, wait=_wait)


def copy_bandwidth(clock: Clock, device: torch.device, size: int = _COPY_BYTES) -> float:
    """Bytes per second of a copy within the device's memory, those read and those written counted; a median of 15."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    samples = take_turns({"copy": lambda: target.copy_(source)}, clock, rounds=(15, 15))
    if not torch.equal(source, target):
        raise AssertionError("a copy within the device's memory is not what was copied")
    return 2 * size / statistics.median(samples["copy"])


@dataclass(frozen=True)
class Bench:
    """What every case is given.

    Args:
        device: where it runs.
        clock: of that device.
        host: the clock for calls that read results back.
        copy: bytes per second of a copy, read plus written.
        seconds: that the rivals of one case take, besides its check.
    """

    device: torch.device
    clock: Clock
    host: Clock
    copy: float
    seconds: float = 0.6

    @classmethod
    def of_device(cls, seconds: float = 0.6) -> Bench:
        """The current CUDA device, its copy bandwidth measured."""
        device = torch.device("cuda", torch.cuda.current_device())
        clock = DeviceClock(device)
        return cls(device, clock, wall_clock(), copy_bandwidth(clock, device), seconds)

    def race(self, rivals: dict[str, Call]) -> Seconds:
        return take_turns(rivals, self.clock, self.seconds, (5, 50))

    def race_on_host(self, rivals: dict[str, Call], rounds: tuple[int, int] = (3, 10)) -> Seconds:
        """With all that the host does and waits for."""
        return take_turns(rivals, self.host, self.seconds, rounds)


# A title, and what measures it and gives its table.Row.
Case = tuple[str, Callable[[Bench], Any]]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
