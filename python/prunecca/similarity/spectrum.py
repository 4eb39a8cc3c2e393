"""The eigendecomposition of a representation's covariance: computed once, used for every partner and metric."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..covariance.covariance import Covariance
from ..covariance.memo import Memo
from ..covariance.moments import PRODUCT_ERROR
from ..linalg.batched import eigh
from .operands import SIDES, Side, live_deviations

Kind = Literal["covariance", "correlation"]


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
    x, y = _spectra(_Side(cov.memo_x, cov.xx), _Side(cov.memo_y, cov.yy))
    return x, y


def correlation_spectra(cov: Covariance) -> tuple[Spectrum, Spectrum]:
    """The spectra of the correlations of both sides' channels, which do not depend on the scale of any channel.

    Channels that are constant to the resolution of the accumulation are left out. Otherwise as ``covariance_spectra``.
    """
    x, y = _spectra(_correlations(cov, "x"), _correlations(cov, "y"))
    return x, y


def correlation_spectrum(cov: Covariance, side: Side) -> Spectrum:
    """One of ``correlation_spectra``, without the other."""
    return _spectra(_correlations(cov, side))[0]


def decompose(covariances: Sequence[Covariance], kind: Kind | None) -> None:
    """Compute the spectra that metrics will ask for: those of one width together, however else covariances differ.

    Args:
        covariances: whose memos are filled.
        kind: of ``covariance_spectra`` or of ``correlation_spectra``; None for nothing.
    """
    if kind == "covariance":
        _spectra(*(_Side(*side) for cov in covariances for side in ((cov.memo_x, cov.xx), (cov.memo_y, cov.yy))))
    elif kind == "correlation":
        _spectra(*(_correlations(cov, side) for cov in covariances for side in SIDES))


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

    def members(self) -> Sequence[_Side]:
        """The matrices that this one was stacked from, which may be known by themselves; itself where it was not."""
        if not self.memo.parts:
            return [self]
        deviations = itertools.repeat(None) if self.deviations is None else iter(self.deviations)
        return [_Side(*one) for one in zip(self.memo.parts, self.covariance, deviations, strict=False)]

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


def _spectra(*sides: _Side) -> list[Spectrum]:
    """Of each side; matrices of one width that are not known yet are decomposed together."""
    alike: dict[tuple[Any, ...], dict[int, _Side]] = {}
    for member in (member for side in sides for member in side.members()):
        if member.recall() is None:
            key = (member.covariance.shape[-1], member.covariance.dtype, member.covariance.device)
            alike.setdefault(key, {})[id(member.memo)] = member
    for unknown in alike.values():
        _decompose_together(list(unknown.values()))
    return [side.recall() or _joined(side) for side in sides]


def _joined(side: _Side) -> Spectrum:
    """The spectra of a side's members as one."""
    # A matrix that stands in two places beside different means may be known as one of them only.
    known = [member.recall() or member.keep(*_decompose(member.matrix())) for member in side.members()]
    if not side.memo.parts:
        return known[0]
    return side.keep(torch.stack([one.values for one in known]), torch.stack([one.vectors for one in known]))


def _decompose_together(sides: Sequence[_Side]) -> None:
    if len(sides) == 1:
        sides[0].keep(*_decompose(sides[0].matrix()))
        return
    shapes = [side.covariance.shape for side in sides]
    values, vectors = _decompose(torch.cat([side.matrix().reshape(-1, *shapes[0][-2:]) for side in sides]))
    counts = [math.prod(shape[:-2]) for shape in shapes]
    parts = zip(torch.split(values, counts), torch.split(vectors, counts), strict=True)
    for side, shape, (own, directions) in zip(sides, shapes, parts, strict=True):
        side.keep(own.reshape(shape[:-1]), directions.reshape(shape))


def _decompose(matrix: Tensor) -> tuple[Tensor, Tensor]:
    message = f"a covariance matrix of shape {tuple(matrix.shape)} has no eigendecomposition; expected finite numbers"
    try:
        values, vectors = eigh(matrix)
    except RuntimeError as failure:  # torch.linalg.LinAlgError, which torch does not export to type checkers
        raise ValueError(message) from failure
    if not torch.isfinite(values).all():  # torch does not always raise
        raise ValueError(message)
    return values.flip(-1).clamp_min(0.0), vectors.flip(-1)
