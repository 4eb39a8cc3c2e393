"""The eigendecomposition of a representation's covariance: computed once, used for every partner and metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..covariance.covariance import Covariance
from ..covariance.memo import Memo
from ..linalg.batched import eigh

# Relative error of one entry of the accumulated matrix, against exact arithmetic on the same data.
_ACCUMULATION_ERROR = {"float32": 1e-7, "float64": 1e-14}


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of covariance matrices, largest eigenvalue first.

    Leading dimensions are a batch.

    Attributes:
        values: (..., C) float64, never negative.
        vectors: (..., C, C) float64, one eigenvector per column.
    """

    values: Tensor
    vectors: Tensor

    def rank(self, tol: float) -> Tensor:
        """Number of directions with an eigenvalue above ``tol`` times the largest, (...) int64; 0 for a zero matrix."""
        return ((self.values > tol * self.values[..., :1]) & (self.values > 0)).sum(-1)

    def rank_of_variance(self, variance: float, tol: float) -> Tensor:
        """Smallest number of directions that hold the fraction ``variance`` of the trace, at most ``rank(tol)``."""
        sums = self.values.cumsum(-1)
        return torch.minimum((sums < variance * sums[..., -1:]).sum(-1) + 1, self.rank(tol))

    def whitener(self, kept: Tensor) -> Tensor:
        """Matrix W, (..., C, max(kept)), for which ``W' cov W`` is the identity on the first ``kept`` directions.

        In a batch, columns beyond a member's own ``kept`` are zero.
        """
        return self._scaled(kept, self.values.rsqrt())

    def loadings(self, kept: Tensor) -> Tensor:
        """``cov @ W`` of the same directions, (..., C, max(kept)): covariance of each channel with each of them."""
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


def spectrum_of_x(cov: Covariance) -> Spectrum:
    """The ``Spectrum`` of ``cov.xx``, computed once for all metrics and all covariances that share that tensor.

    It is remembered by the covariance, and computed anew once the tensor was written to.

    Raises:
        ValueError: the matrix holds NaN or infinity.
    """
    return _known(cov.memo_x)


def spectrum_of_y(cov: Covariance) -> Spectrum:
    """The ``Spectrum`` of ``cov.yy``; as ``spectrum_of_x``."""
    return _known(cov.memo_y)


def spectra(cov: Covariance) -> tuple[Spectrum, Spectrum]:
    """The spectra of both sides; matrices of one width on the host are decomposed together, a thread each."""
    xx, yy = cov.xx, cov.yy
    alike = xx.ndim == 2 and xx.shape == yy.shape[-2:] and xx.dtype == yy.dtype and not xx.is_cuda
    if cov.memo_x is cov.memo_y or not alike or cov.memo_x.recall() or cov.memo_y.recall():
        return spectrum_of_x(cov), spectrum_of_y(cov)
    both = _decompose(torch.cat([xx.unsqueeze(0), yy.reshape(-1, *xx.shape)]))
    first = Spectrum(both.values[0], both.vectors[0])
    others = Spectrum(both.values[1:].reshape(yy.shape[:-1]), both.vectors[1:].reshape(yy.shape))
    return cov.memo_x.keep(first), cov.memo_y.keep(others)


def _known(memo: Memo[Spectrum]) -> Spectrum:
    return memo.get(_decompose)


def _decompose(matrix: Tensor) -> Spectrum:
    message = f"a covariance matrix of shape {tuple(matrix.shape)} has no eigendecomposition; expected finite numbers"
    try:
        values, vectors = eigh(matrix)
    except RuntimeError as failure:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        raise ValueError(message) from failure
    if matrix.is_cuda and not torch.isfinite(values).all():  # where torch would have raised
        raise ValueError(message)
    return Spectrum(values.flip(-1).clamp_min(0.0), vectors.flip(-1))
