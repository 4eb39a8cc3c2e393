"""The eigendecomposition of a representation's covariance: computed once, used for every partner and metric."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..covariance.covariance import Covariance
from ..covariance.memo import Memo
from ..covariance.moments import PRODUCT_ERROR
from ..linalg.batched import eigh
from .operands import Side, live_deviations


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of covariance matrices, largest eigenvalue first.

    Leading dimensions are a batch.

    Attributes:
        values: (..., C) float64, never negative.
        vectors: (..., C, C) float64, one eigenvector per column.
        deviations: (..., C) float64; standard deviations by which the channels were divided first, so that the matrix
            is one of correlations, and 0 for channels that were left out. None where it is the covariance itself.
    """

    values: Tensor
    vectors: Tensor
    deviations: Tensor | None = None

    def rank(self, tol: float) -> Tensor:
        """Number of directions with an eigenvalue above ``tol`` times the largest, (...) int64; 0 for a zero matrix."""
        return ((self.values > tol * self.values[..., :1]) & (self.values > 0)).sum(-1)

    def rank_of_variance(self, variance: float) -> Tensor:
        """Smallest number of directions that hold the fraction ``variance`` of the trace, (...) int64."""
        sums = self.values.cumsum(-1)
        if variance >= 1.0:  # all, although the sum may not feel the last of them
            return torch.full_like(sums[..., -1], sums.shape[-1], dtype=torch.int64)
        return (sums < variance * sums[..., -1:]).sum(-1).add(1).clamp_max(sums.shape[-1])

    def whitener(self, kept: Tensor) -> Tensor:
        """Matrix W, (..., C, max(kept)), for which ``W' cov W`` is the identity on the first ``kept`` directions.

        In a batch, columns beyond a member's own ``kept`` are zero.
        """
        return self._scaled(kept, self.values.rsqrt(), -1)

    def loadings(self, kept: Tensor) -> Tensor:
        """``cov @ W`` of the same directions, (..., C, max(kept)): covariance of each channel with each of them."""
        return self._scaled(kept, self.values.sqrt(), 1)

    def _scaled(self, kept: Tensor, scale: Tensor, power: int) -> Tensor:
        widest = int(kept.max()) if kept.numel() else 0
        inside = torch.arange(widest, device=scale.device) < kept.unsqueeze(-1)
        out = self.vectors[..., :widest] * torch.where(inside, scale[..., :widest], 0.0).unsqueeze(-2)
        if self.deviations is None:
            return out
        live = self.deviations > 0
        return out * torch.where(live, torch.where(live, self.deviations, 1.0).pow(power), 0.0).unsqueeze(-1)


def default_tolerance(precision: str, channels: int) -> float:
    """Rank tolerance for matrices accumulated with products in ``precision``, relative to the largest eigenvalue.

    ``10 * error * sqrt(channels)``, with 1e-7 ("float32") or 1e-14 ("float64") as the error of one entry: independent
    errors of that size disturb no eigenvalue by more than about ``2 * error * sqrt(channels)`` of the largest, so what
    is kept is signal, and what is dropped could not be told from rounding. The error of a product is relative to the
    deviations of its two channels: for correlations it is the same whatever the scales of the channels.
    """
    if precision not in PRODUCT_ERROR:
        raise ValueError(f"the covariance has precision {precision!r}; expected 'float32' or 'float64'")
    return 10.0 * PRODUCT_ERROR[precision] * math.sqrt(max(channels, 1))


def covariance_spectra(cov: Covariance) -> tuple[Spectrum, Spectrum]:
    """The spectra of ``cov.xx`` and ``cov.yy``, which depend on the scale of every channel.

    Each is computed once for all metrics and all covariances that share the tensor, and computed anew once the tensor
    was written to. Matrices of one width are decomposed together: on the host a thread each, on a device in one call.

    Raises:
        ValueError: a matrix holds NaN or infinity.
    """
    return _spectra(_Side(cov.memo_x, cov.xx), _Side(cov.memo_y, cov.yy))


def correlation_spectra(cov: Covariance) -> tuple[Spectrum, Spectrum]:
    """The spectra of the correlations of both sides' channels, which do not depend on the scale of any channel.

    Channels that are constant to the resolution of the accumulation are left out. Otherwise as ``covariance_spectra``.
    """
    return _spectra(_correlations(cov, "x"), _correlations(cov, "y"))


def correlation_spectrum(cov: Covariance, side: Side) -> Spectrum:
    """One of ``correlation_spectra``, without the other."""
    return _spectrum(_correlations(cov, side))


@dataclass(frozen=True)
class _Side:
    """What is to be decomposed, and where its spectrum is kept.

    Attributes:
        memo: of the covariance matrix.
        covariance: (..., C, C) float64.
        deviations: (..., C) float64; what the channels are divided by, as in ``Spectrum``.
    """

    memo: Memo
    covariance: Tensor
    deviations: Tensor | None = None

    def matrix(self) -> Tensor:
        if self.deviations is None:
            return self.covariance
        live = self.deviations > 0
        inverse = torch.where(live, torch.where(live, self.deviations, 1.0).reciprocal(), 0.0)
        return self.covariance * inverse.unsqueeze(-1) * inverse.unsqueeze(-2)

    def recall(self) -> Spectrum | None:
        known: Spectrum | None = self.memo.recall(self._name())
        if known is None or known.deviations is None or self.deviations is None:
            return known
        # The same matrix beside another mean may have other constant channels.
        return known if torch.equal(known.deviations, self.deviations) else None

    def keep(self, values: Tensor, vectors: Tensor) -> Spectrum:
        spectrum = Spectrum(values, vectors, self.deviations)
        self.memo.keep(self._name(), spectrum)
        return spectrum

    def _name(self) -> str:
        return "covariance" if self.deviations is None else "correlation"


def _correlations(cov: Covariance, side: Side) -> _Side:
    deviations = live_deviations(cov, side)
    return _Side(cov.memo_x, cov.xx, deviations) if side == "x" else _Side(cov.memo_y, cov.yy, deviations)


def _spectra(x: _Side, y: _Side) -> tuple[Spectrum, Spectrum]:
    xx, yy = x.covariance, y.covariance
    alike = xx.ndim == 2 and xx.shape == yy.shape[-2:] and xx.dtype == yy.dtype
    if x.memo is y.memo or not alike or x.recall() or y.recall():
        return _spectrum(x), _spectrum(y)
    values, vectors = _decompose(torch.cat([x.matrix().unsqueeze(0), y.matrix().reshape(-1, *xx.shape)]))
    return x.keep(values[0], vectors[0]), y.keep(values[1:].reshape(yy.shape[:-1]), vectors[1:].reshape(yy.shape))


def _spectrum(side: _Side) -> Spectrum:
    return side.recall() or side.keep(*_decompose(side.matrix()))


def _decompose(matrix: Tensor) -> tuple[Tensor, Tensor]:
    message = f"a covariance matrix of shape {tuple(matrix.shape)} has no eigendecomposition; expected finite numbers"
    try:
        values, vectors = eigh(matrix)
    except RuntimeError as failure:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        raise ValueError(message) from failure
    if not torch.isfinite(values).all():  # torch does not always raise
        raise ValueError(message)
    return values.flip(-1).clamp_min(0.0), vectors.flip(-1)
