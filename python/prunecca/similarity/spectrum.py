"""The eigendecomposition of a representation's covariance: computed once, used for every partner and metric."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.batched import eigh_batched
from ..linalg.threads import one_per_thread

# Relative error of one entry of the accumulated matrix, against exact arithmetic on the same data.
_ACCUMULATION_ERROR = {"float32": 1e-7, "float64": 1e-14}


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of covariance matrices, largest eigenvalue first.

    ``values`` is ``(..., C)`` and never negative, ``vectors`` is ``(..., C, C)`` with one eigenvector per column;
    both float64, on the device of the matrix. Leading dimensions are a batch.
    """

    values: Tensor
    vectors: Tensor

    def rank(self, tol: float) -> Tensor:
        """Number of directions with an eigenvalue above ``tol`` times the largest, int64 ``(...)``; 0 for a zero matrix."""
        return ((self.values > tol * self.values[..., :1]) & (self.values > 0)).sum(-1)

    def rank_of_variance(self, variance: float, tol: float) -> Tensor:
        """Smallest number of directions that hold the fraction ``variance`` of the trace, at most ``rank(tol)``."""
        held = self.values.cumsum(-1)
        return torch.minimum((held < variance * held[..., -1:]).sum(-1) + 1, self.rank(tol))

    def whitener(self, kept: Tensor) -> Tensor:
        """Matrix W, ``(..., C, max(kept))``, for which ``W' cov W`` is the identity on the first ``kept`` directions.

        In a batch, columns beyond a member's own ``kept`` are zero.
        """
        return self._scaled(kept, self.values.rsqrt())

    def loadings(self, kept: Tensor) -> Tensor:
        """``cov @ W`` of the same directions, ``(..., C, max(kept))``: covariance of each channel with each of them."""
        return self._scaled(kept, self.values.sqrt())

    def _scaled(self, kept: Tensor, scale: Tensor) -> Tensor:
        widest = int(kept.max()) if kept.numel() else 0
        inside = torch.arange(widest, device=scale.device) < kept.unsqueeze(-1)
        return self.vectors[..., :widest] * torch.where(inside, scale[..., :widest], 0.0).unsqueeze(-2)


def default_tolerance(precision: str, channels: int) -> float:
    """Rank tolerance for matrices accumulated with products in ``precision``, relative to the largest eigenvalue.

    ``10 * error * sqrt(channels)``, with 1e-7 ("float32") or 1e-14 ("float64") as the error of one entry: independent
    errors of that size disturb no eigenvalue by more than about ``2 * error * sqrt(channels)`` of the largest, so what
    is kept is signal, and what is dropped could not be told from rounding.
    """
    if precision not in _ACCUMULATION_ERROR:
        raise ValueError(f"the covariance has precision {precision!r}; expected 'float32' or 'float64'")
    return 10.0 * _ACCUMULATION_ERROR[precision] * math.sqrt(max(channels, 1))


def spectrum_of(matrix: Tensor) -> Spectrum:
    """The ``Spectrum`` of symmetric matrices ``(..., C, C)``, float64.

    It is remembered as long as that very tensor lives and is not written to, so that metrics which share a
    representation (several metrics of one pair, or one reference and many candidates) decompose it once.
    Raises ``ValueError`` for a matrix with NaN or Inf.
    """
    return _recall(matrix) or _remember(matrix, _decompose(matrix))


def spectra_of(first: Tensor, second: Tensor) -> tuple[Spectrum, Spectrum]:
    """``spectrum_of`` both; matrices of one width on the host are decomposed together, a thread each."""
    alike = first.ndim == 2 and first.shape == second.shape[-2:] and first.dtype == second.dtype
    if first is second or first.is_cuda or not alike or _recall(first) or _recall(second):
        return spectrum_of(first), spectrum_of(second)
    both = _decompose(
        torch.cat([first.unsqueeze(0), second.flatten(0, -3) if second.ndim > 2 else second.unsqueeze(0)])
    )
    own = Spectrum(both.values[0], both.vectors[0])
    others = Spectrum(both.values[1:].reshape(second.shape[:-1]), both.vectors[1:].reshape(second.shape))
    return _remember(first, own), _remember(second, others)


def _recall(matrix: Tensor) -> Spectrum | None:
    entry = _remembered.get(id(matrix))
    known = entry is not None and entry[0]() is matrix and entry[1] == _version(matrix)
    return entry[2] if entry is not None and known else None


def _remember(matrix: Tensor, spectrum: Spectrum) -> Spectrum:
    key = id(matrix)
    _remembered[key] = (weakref.ref(matrix, lambda _: _remembered.pop(key, None)), _version(matrix), spectrum)
    return spectrum


def _version(matrix: Tensor) -> int:
    # Inference tensors carry no version, but cannot be written to outside of inference mode either.
    return 0 if matrix.is_inference() else matrix._version


_remembered: dict[int, tuple[weakref.ref[Tensor], int, Spectrum]] = {}


def _decompose(matrix: Tensor) -> Spectrum:
    try:
        values, vectors = _eigh(matrix)
    except RuntimeError as failure:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        raise ValueError(
            f"a covariance matrix of shape {tuple(matrix.shape)} has no eigendecomposition; expected finite numbers"
        ) from failure
    if matrix.is_cuda and not torch.isfinite(values).all():  # where torch would have raised
        raise ValueError(
            f"a covariance matrix of shape {tuple(matrix.shape)} has no eigendecomposition; expected finite numbers"
        )
    return Spectrum(values.flip(-1).clamp_min(0.0), vectors.flip(-1))


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    if matrix.is_cuda or matrix.ndim < 3:
        return eigh_batched(matrix)
    results = one_per_thread(torch.linalg.eigh, matrix.flatten(0, -3))
    return (
        torch.stack([values for values, _ in results]).reshape(matrix.shape[:-1]),
        torch.stack([vectors for _, vectors in results]).reshape(matrix.shape),
    )
