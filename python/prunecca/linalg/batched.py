"""Eigenvalues and singular values of many float64 matrices at once: the C x C stage of every metric.

Drop-in for ``torch.linalg`` on batches. On a CUDA device the vendor's solver takes matrices one after the other, each
leaving most of the device idle; here all matrices of a batch are solved together, and nothing is read back by
the host while sides are at most ``LARGEST_IN_SHARED``. Elsewhere these functions are ``torch.linalg``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _native
from .._arrays import native, stream_of

# Up to this side, one matrix fits into the shared memory of one multiprocessor (linalg.cuh), where a block is granted
# the 138 KiB that this takes; an A100, H100 or B200 grants it, consumer cards have 99 KiB.
LARGEST_IN_SHARED = 128
_SHARED_BYTES = 138 << 10
# Above it, blocks of columns are paired and solved in shared memory. One step of that fills the device only when many
# pairs go at once; below this many matrices the vendor's solver is used. Estimated from counted operations (a sweep of
# one 1024 x 1024 matrix has 15 steps of 8 pairs); to be replaced by a measurement on a device.
FEWEST_FOR_BLOCKS = 4
_MOST_SWEEPS = 30

Eigensystem = tuple[Tensor, Tensor]


def eigh_batched(matrices: Tensor) -> Eigensystem:
    """As ``torch.linalg.eigh``: eigenvalues ``(..., n)``, ascending, and eigenvectors ``(..., n, n)``, in columns.

    matrices: symmetric, float64, ``(..., n, n)``; on a CUDA device only lower triangles are read. A matrix that
    holds NaN, or that does not converge in 30 sweeps, has NaN eigenvalues on a CUDA device; on the host torch raises.
    Eigenvalues are exact to about ``n * 1e-16`` of the largest.
    """
    method = _method(matrices)
    if method == "torch" or matrices.numel() == 0:
        values, vectors = torch.linalg.eigh(matrices)
        return values, vectors
    flat = matrices.reshape(-1, *matrices.shape[-2:]).contiguous()
    block = _largest_in_shared(flat) // 2
    values, vectors = _eigh_in_shared(flat) if method == "shared" else eigh_by_blocks(flat, _eigh_in_shared, block)
    return values.reshape(matrices.shape[:-1]), vectors.reshape(matrices.shape)


def eigvalsh_batched(matrices: Tensor) -> Tensor:
    """As ``torch.linalg.eigvalsh``: the eigenvalues of :func:`eigh_batched` alone."""
    if _method(matrices) == "torch":
        values: Tensor = torch.linalg.eigvalsh(matrices)
        return values
    return eigh_batched(matrices)[0]


def svdvals_batched(matrices: Tensor) -> Tensor:
    """As ``torch.linalg.svdvals``: singular values of ``(..., m, n)``, float64, descending, exact to 1e-15 of the largest.

    On a CUDA device a matrix that holds NaN, or that does not converge, has NaN singular values.
    """
    method = _method(matrices)
    if method == "torch" or matrices.numel() == 0:
        host: Tensor = torch.linalg.svdvals(matrices)
        return host
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    block = _largest_in_shared(flat) // 2
    values = _svdvals_in_shared(flat) if method == "shared" else svdvals_by_blocks(flat, _eigh_in_shared, block)
    return values.reshape(*matrices.shape[:-2], values.shape[-1])


def eigh_by_blocks(matrices: Tensor, solve: Callable[[Tensor], Eigensystem], block: int) -> Eigensystem:
    """Eigensystems of ``(count, n, n)`` by one-sided block Jacobi, where ``solve`` is ``eigh`` for sides of ``2 * block``.

    The matrices are shifted until they are positive definite with like eigenvalues; orthogonal transformations then make
    their rows orthogonal, whose norms are the shifted eigenvalues and whose directions are the eigenvectors.
    The host waits once per sweep (5 to 12 of them).
    """
    n = matrices.shape[-1]
    lower = matrices.tril()
    full = lower + lower.tril(-1).mT
    bound = torch.minimum(full.abs().sum(-1).amax(-1), torch.linalg.matrix_norm(full))[:, None, None]
    shift = 1.25 * torch.where(bound > 0, bound, 1.0)
    rows = full + shift * torch.eye(n, dtype=full.dtype, device=full.device)
    rows, norms = _orthogonal_rows(rows, shift * 4, solve, block)
    vectors = (rows / norms.unsqueeze(-1)).mT
    # Not the norms less the shift, which would carry rounding errors of the shift's size.
    values, order = (vectors * (full @ vectors)).sum(-2).sort(-1)
    return values, vectors.gather(-1, order.unsqueeze(-2).expand_as(vectors))


def svdvals_by_blocks(matrices: Tensor, solve: Callable[[Tensor], Eigensystem], block: int) -> Tensor:
    """Singular values of ``(count, m, n)`` by one-sided block Jacobi, descending; see :func:`eigh_by_blocks`."""
    rows = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    return _orthogonal_rows(rows, None, solve, block)[1].sort(-1, descending=True).values


def _orthogonal_rows(
    rows: Tensor, padding: Tensor | None, solve: Callable[[Tensor], Eigensystem], block: int
) -> tuple[Tensor, Tensor]:
    """Rows ``(count, m, n)`` turned among themselves until they are orthogonal, and their norms.

    ``padding``: the norm of rows that fill up the last block and are orthogonal to all others, so that they can be told
    from them at the end; None: zero rows, of which as many as were added are dropped.
    """
    count, m, n = rows.shape
    blocks = -(-m // (2 * block)) * 2
    added = blocks * block - m
    if padding is not None and added:
        rows = torch.nn.functional.pad(rows, (0, added, 0, added))
        rows.diagonal(dim1=-2, dim2=-1)[:, m:] = padding[..., 0]
    else:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, added))
    rows = rows.reshape(count, blocks, block, rows.shape[-1])
    step, halves = _tournament(blocks, block, rows.device)
    limit = 8 * torch.finfo(rows.dtype).eps * n**0.5
    for _ in range(_MOST_SWEEPS):
        off = rows.new_zeros(())
        for half in halves:
            pairs = rows.reshape(count, blocks // 2, 2 * block, -1)
            gram = pairs @ pairs.mT
            squares = gram.diagonal(dim1=-2, dim2=-1)
            apart = (gram - torch.diag_embed(squares)).abs().amax((-3, -2, -1))
            off = torch.maximum(off, (apart / squares.amax((-2, -1)).clamp_min(torch.finfo(rows.dtype).tiny)).max())
            turn = solve(gram.reshape(-1, 2 * block, 2 * block))[1].reshape(gram.shape)
            # The block that comes first in the whole takes the larger half: so the pairs agree on one order.
            turn = turn.gather(-1, half.expand_as(turn))
            rows = (turn.mT @ pairs).reshape(count, blocks, block, -1)[:, step]
        if not off > limit:
            break
    rows = rows.reshape(count, blocks * block, -1)
    norms = torch.linalg.vector_norm(rows, dim=-1)
    if added:
        keep = norms.argsort(-1)[:, :m] if padding is not None else norms.argsort(-1, descending=True)[:, :m]
        rows, norms = rows.gather(-2, keep.unsqueeze(-1).expand(-1, -1, rows.shape[-1])), norms.gather(-1, keep)
    return rows[..., :n], norms


@functools.lru_cache(maxsize=16)
def _tournament(blocks: int, block: int, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """The seat each block takes in the next step, neighbours being paired, and per step which half goes where.

    After ``blocks - 1`` steps every two blocks have met, and all are back in their first seats. Kept, because to bring
    it to a device is to wait for that.
    """
    circle = list(range(0, blocks, 2)) + list(range(blocks - 1, 0, -2))  # seats in the order of play; the first stays
    source = list(range(blocks))
    for here, there in zip(circle[1:], circle[2:] + circle[1:2], strict=True):
        source[there] = here
    descending = torch.arange(2 * block - 1, -1, -1)
    halves, label = [], list(range(blocks))
    for _ in range(blocks - 1):
        swapped = [label[k] > label[k + 1] for k in range(0, blocks, 2)]
        half = torch.stack([descending.roll(block) if swap else descending for swap in swapped])
        halves.append(half[None, :, None, :].to(device))
        label = [label[s] for s in source]
    return torch.tensor(source, device=device), halves


def _method(matrices: Tensor) -> str:
    if not matrices.is_cuda or matrices.dtype != torch.float64:
        return "torch"
    if max(matrices.shape[-2:]) <= _largest_in_shared(matrices):
        return "shared"
    return "blocks" if matrices.shape[:-2].numel() >= FEWEST_FOR_BLOCKS else "torch"


def _largest_in_shared(matrices: Tensor) -> int:
    properties: Any = torch.cuda.get_device_properties(
        matrices.device
    )  # whose attributes torch's stubs do not all have
    return LARGEST_IN_SHARED if properties.shared_memory_per_block_optin >= _SHARED_BYTES else LARGEST_IN_SHARED // 2


def _eigh_in_shared(matrices: Tensor) -> Eigensystem:
    matrices = matrices.contiguous()
    values, vectors = torch.empty_like(matrices[..., 0]), torch.empty_like(matrices)
    _native.eigh(native(matrices), native(values), native(vectors), _MOST_SWEEPS, stream=stream_of(matrices))
    return values, vectors


def _svdvals_in_shared(matrices: Tensor) -> Tensor:
    values = matrices.new_empty(matrices.shape[0], min(matrices.shape[1:]))
    _native.singular_values(native(matrices), native(values), _MOST_SWEEPS, stream=stream_of(matrices))
    return values
