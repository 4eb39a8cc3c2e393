"""Eigenvalues and singular values of many float64 matrices at once: the C x C stage of every metric.

Drop-in for ``torch.linalg`` on batches, and the one place that chooses where they are computed. On the host each thread
takes matrices of its own, instead of all threads one matrix after the other. On a CUDA device one matrix leaves most of
the device idle: all matrices of a batch are solved together, by a kernel of our own and without a word to the host while
sides are at most ``LARGEST_IN_SHARED``, above that by cuSOLVER's batched solver, and by ``torch.linalg`` where there is
none, or but one matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import _native
from .._arrays import native, stream_of
from . import cusolver

# Up to this side, one matrix fits into the shared memory of one multiprocessor (linalg.cuh), where a block is granted
# the 138 KiB that this takes; an A100, H100 or B200 grants it, consumer cards have 99 KiB.
LARGEST_IN_SHARED = _native.LARGEST_SIDE
_SHARED_BYTES = 138 << 10
_SVD_BYTES = 1 << 31  # of matrices that are made of those whose singular values are wanted
_SMALLEST = 48  # channels below which a problem is done before a thread has started

Eigensystem = tuple[Tensor, Tensor]
Result = TypeVar("Result")


def eigh(matrices: Tensor) -> Eigensystem:
    """As ``torch.linalg.eigh``; eigenvalues are exact to about ``n * 1e-16`` of the largest.

    Args:
        matrices: (..., n, n) float64, symmetric; on a CUDA device only lower triangles are read.

    Returns:
        Eigenvalues (..., n), ascending, and eigenvectors (..., n, n), in columns. A matrix that holds NaN, or that does
        not converge in 30 sweeps, may have NaN eigenvalues on a CUDA device where its side is at most 128; elsewhere
        torch raises.
    """
    if _fits_shared_memory(matrices):
        values, vectors = _eigh_in_shared(matrices.reshape(-1, *matrices.shape[-2:]))
    elif _is_batch_on_device(matrices):
        values, vectors = _eigh_by_cusolver(matrices.flatten(0, -3))
    elif _is_batch_on_host(matrices):
        values, vectors = map(torch.stack, zip(*_one_per_thread(torch.linalg.eigh, matrices), strict=True))
    else:
        values, vectors = torch.linalg.eigh(matrices)
    return values.reshape(matrices.shape[:-1]), vectors.reshape(matrices.shape)


def eigvalsh(matrices: Tensor) -> Tensor:
    """As ``torch.linalg.eigvalsh``: the eigenvalues of ``eigh`` alone.

    Args:
        matrices: (..., n, n) float64, symmetric.

    Returns:
        Eigenvalues (..., n), ascending.
    """
    if _fits_shared_memory(matrices):
        return eigh(matrices)[0]
    if _is_batch_on_host(matrices):
        values = torch.stack(_one_per_thread(torch.linalg.eigvalsh, matrices))
    elif _is_batch_on_device(matrices):
        values = _eigvalsh_by_cusolver(matrices.flatten(0, -3))
    else:
        values = torch.linalg.eigvalsh(matrices)
    return values.reshape(matrices.shape[:-1])


def svdvals(matrices: Tensor) -> Tensor:
    """As ``torch.linalg.svdvals``; exact to about ``n * 1e-16`` of the largest.

    Args:
        matrices: (..., m, n) float64.

    Returns:
        Singular values (..., min(m, n)), descending. On a CUDA device a matrix that holds NaN, or that does not
        converge, may have NaN singular values where its sides are at most 128.
    """
    if _fits_shared_memory(matrices):
        values = _svdvals_in_shared(matrices.reshape(-1, *matrices.shape[-2:]))
    elif _is_batch_on_device(matrices):
        values = _svdvals_by_cusolver(matrices.flatten(0, -3))
    elif _is_batch_on_host(matrices):
        values = torch.stack(_one_per_thread(torch.linalg.svdvals, matrices))
    else:
        values = torch.linalg.svdvals(matrices)
    return values.reshape(*matrices.shape[:-2], min(matrices.shape[-2:]))


def _is_batch_on_host(matrices: Tensor) -> bool:
    return matrices.device.type == "cpu" and matrices.ndim > 2 and matrices.numel() > 0


def _is_batch_on_device(matrices: Tensor) -> bool:
    if not matrices.is_cuda or matrices.dtype != torch.float64 or matrices.ndim < 3:
        return False
    return matrices.numel() > matrices.shape[-2] * matrices.shape[-1]


def _fits_shared_memory(matrices: Tensor) -> bool:
    if not matrices.is_cuda or matrices.dtype != torch.float64 or not matrices.numel():
        return False
    return max(matrices.shape[-2:]) <= _largest_in_shared(matrices)


def _largest_in_shared(matrices: Tensor) -> int:
    properties: Any = torch.cuda.get_device_properties(matrices.device)  # torch's stubs lack some of its attributes
    return LARGEST_IN_SHARED if properties.shared_memory_per_block_optin >= _SHARED_BYTES else LARGEST_IN_SHARED // 2


def _one_per_thread(solve: Callable[[Tensor], Result], matrices: Tensor) -> list[Result]:
    """``solve`` of every matrix of a batch, on ``torch.get_num_threads()`` threads.

    Reductions to tridiagonal or bidiagonal form are bound by memory and hardly gain from a second thread, but two
    of them side by side do. The number of threads is torch's again afterwards.
    """
    batch = matrices.flatten(0, -3)
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


def _eigh_in_shared(matrices: Tensor) -> Eigensystem:
    matrices = matrices.contiguous()
    values, vectors = torch.empty_like(matrices[..., 0]), torch.empty_like(matrices)
    _native.eigh(native(matrices), native(values), native(vectors), _native.MOST_SWEEPS, stream=stream_of(matrices))
    return values, vectors


def _svdvals_in_shared(matrices: Tensor) -> Tensor:
    values = matrices.new_empty(matrices.shape[0], min(matrices.shape[1:]))
    _native.singular_values(native(matrices), native(values), _native.MOST_SWEEPS, stream=stream_of(matrices))
    return values


def _eigh_by_cusolver(matrices: Tensor) -> Eigensystem:
    solver = cusolver.solver()
    found = solver.eigh(matrices, vectors=True) if solver else None
    if found is None:
        whole = torch.linalg.eigh(matrices)
        return whole[0], whole[1]
    values, vectors, good = found
    again = _left_over(good)
    if len(again):  # NaN too: torch says so
        values[again], vectors[again] = torch.linalg.eigh(matrices[again])
    return values, vectors


def _eigvalsh_by_cusolver(matrices: Tensor) -> Tensor:
    solver = cusolver.solver()
    found = solver.eigh(matrices, vectors=False) if solver else None
    if found is None:
        whole: Tensor = torch.linalg.eigvalsh(matrices)
        return whole
    values, _, good = found
    again = _left_over(good)
    if len(again):
        values[again] = torch.linalg.eigvalsh(matrices[again])
    return values


def _svdvals_by_cusolver(matrices: Tensor) -> Tensor:
    """From the eigenvalues of ``[[0, A], [A^T, 0]]``, which are plus and minus the singular values, and zeros.

    That is four times the operations of a reduction to bidiagonal form, but all matrices at once, and loses no digits,
    as ``A^T A`` would.
    """
    solver = cusolver.solver()
    count, rows, columns = matrices.shape
    values = matrices.new_empty(count, min(rows, columns))
    step = max(1, _SVD_BYTES // (8 * (rows + columns) ** 2))
    for start in range(0, count, step):
        some = matrices[start : start + step]
        found = None
        if solver:
            both = some.new_zeros(len(some), rows + columns, rows + columns)
            both[:, rows:, :rows] = some.mT  # of which the lower triangle is read
            found = solver.eigh(both, vectors=False)
        if found is None:
            values[start : start + step] = torch.linalg.svdvals(some)
            continue
        values[start : start + step] = found[0].flip(-1)[:, : values.shape[1]].clamp_min(0.0)
        again = _left_over(found[2])
        if len(again):
            values[start + again] = torch.linalg.svdvals(some[again])
    return values


def _left_over(good: Tensor) -> Tensor:
    """Positions of what must be solved another way; waits for the device."""
    return (~good).nonzero().squeeze(1)
