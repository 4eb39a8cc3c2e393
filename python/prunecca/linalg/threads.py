"""Work side by side on the host: each thread with its own, instead of all threads on one piece after the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

_SMALLEST = 48  # channels below which a problem is done before a thread has started


def values_of(solve: Callable[[Tensor], Tensor], matrices: Tensor) -> Tensor:
    """``solve``, which makes a vector of a matrix, of every matrix of ``(..., rows, columns)`` on any device."""
    if matrices.is_cuda or matrices.ndim < 3 or not matrices.numel():
        return solve(matrices)
    return torch.stack(one_per_thread(solve, matrices.flatten(0, -3))).reshape(*matrices.shape[:-2], -1)


def one_per_thread(solve: Callable[[Tensor], Result], batch: Tensor) -> list[Result]:
    """``solve`` of every matrix of ``(n, rows, columns)``, on ``torch.get_num_threads()`` threads.

    Reductions to tridiagonal or bidiagonal form are bound by memory and hardly gain from a second thread, but two
    of them side by side do. The number of threads is torch's again afterwards.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(batch)) if min(batch.shape[-2:]) >= _SMALLEST else 1
    torch.set_num_threads(1)
    try:
        if workers < 2:
            return [solve(matrix) for matrix in batch]
        # OpenMP counts threads per thread that asks: the workers have to be told as well.
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(solve, batch))
    finally:
        torch.set_num_threads(threads)
