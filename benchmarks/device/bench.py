"""What every contest is given: the device, its clocks, the copy's bandwidth, and how long a race may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .clock import Call, Clock, DeviceClock, HostClock, Seconds, copy_bandwidth, race
from .table import NotMeasured, Row


@dataclass(frozen=True)
class Bench:
    """copy: bytes per second, read plus written. seconds: of each race, besides its check."""

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
        return cls(device, clock, HostClock(), copy_bandwidth(clock, device), seconds)

    def race(self, rivals: dict[str, Call]) -> Seconds:
        return race(self.clock, rivals, self.seconds)

    def race_on_host(self, rivals: dict[str, Call], rounds: tuple[int, int] = (3, 10)) -> Seconds:
        """With all that the host does and waits for."""
        return race(self.host, rivals, self.seconds, rounds)


Contest = tuple[str, Callable[[Bench], Row]]


def measure(contests: list[Contest], bench: Bench, until: float) -> list[Row | NotMeasured]:
    """Run one after another until ``time.monotonic()`` is ``until``; what is wrong or comes too late is a row as well."""
    rows: list[Row | NotMeasured] = []
    for what, contest in contests:
        if time.monotonic() >= until:
            rows.append(NotMeasured(what, "the time was over", failed=False))
            continue
        try:
            rows.append(contest(bench))
        except Exception as error:  # the other contests still have something to say
            why = " ".join(f"{type(error).__name__}: {error}".split())
            rows.append(NotMeasured(what, why[:200], failed=True))
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    return rows
