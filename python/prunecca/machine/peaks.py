"""The most this machine can do: multiply-adds and memory traffic, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .. import _native
from .._arrays import native

RATES = ("float32", "float64", "read", "copy")

_FMA_SECONDS = 0.01
_BUFFER_BYTES = 256 << 20  # beyond any cache this is likely to meet


@dataclass(frozen=True)
class Peaks:
    """Rates of all threads together at the SIMD level in use.

    Args:
        threads: how many.
        float32, float64: multiply-adds in GFLOP/s.
        read: memory read in GB/s.
        copy: memory copied in GB/s, bytes read plus bytes written.
    """

    threads: int
    float32: float
    float64: float
    read: float
    copy: float


def best_of(probes: Sequence[Peaks]) -> Peaks:
    """The best of each rate: whatever else a machine does makes probes slower, never faster."""
    rates = {rate: max(getattr(probe, rate) for probe in probes) for rate in RATES}
    return Peaks(probes[0].threads, **rates)


def measure_peaks(threads: int | None = None, repeats: int = 15) -> Peaks:
    """Measure each rate several times and keep the best; takes about two seconds.

    Args:
        threads: None: as many as torch uses.
        repeats: tries of each rate.
    """
    threads = threads or torch.get_num_threads()
    source = torch.ones(_BUFFER_BYTES // 8, dtype=torch.float64)
    target = torch.zeros_like(source)
    read = _best(lambda: _native.probe_read(native(source), threads), repeats)
    copy = _best(lambda: _native.probe_copy(native(target), native(source), threads), repeats)
    return Peaks(
        threads,
        float32=max(fma_rate(threads=threads) for _ in range(repeats)),
        float64=max(fma_rate(threads=threads, float64=True) for _ in range(repeats)),
        read=_BUFFER_BYTES / read / 1e9,
        copy=2 * _BUFFER_BYTES / copy / 1e9,
    )


def fma_rate(*, threads: int, float64: bool = False) -> float:
    """The rate of independent multiply-adds in registers, in GFLOP/s: the better of two tries of about 10 ms.

    Args:
        threads: how many.
        float64: measure these instead of float32.
    """
    iterations, rates = 2000, [0.0]
    while len(rates) < 3:
        began = time.perf_counter()
        operations = _native.probe_fma(float64, iterations, threads)
        seconds = time.perf_counter() - began
        if seconds >= _FMA_SECONDS / 2:
            rates.append(operations / seconds / 1e9)
        else:
            iterations = int(iterations * min(100.0, max(2.0, _FMA_SECONDS / max(seconds, 1e-6))))
    return max(rates)


def _best(call: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best
