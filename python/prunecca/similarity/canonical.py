"""Canonical correlations of the two sides of a covariance, which CCA, SVCCA, PWCCA and their relatives average."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..covariance.covariance import Covariance
from ..linalg.batched import eigh, eigvalsh, svdvals
from .operands import SIDES, Side, dead_channels, live_deviations, python_number
from .spectrum import (
    Spectrum,
    correlation_spectra,
    correlation_spectrum,
    covariance_spectra,
    default_tolerance,
)


@dataclass(frozen=True)
class CanonicalCorrelations:
    """Canonical correlations and the average of them that a metric makes its value.

    Of one pair, the numbers are Python numbers; of a batched covariance they are tensors of its leading shape, and
    ``correlations`` is padded with zeros beyond ``min(kept_x, kept_y)``. ``float`` of it is ``mean``.

    Attributes:
        correlations: (..., min(kept_x, kept_y)) float64; largest first, in [0, 1].
        mean: the metric's value, in [0, 1] (the trace of ``pillai`` alone may be larger); NaN where a side has no variance at all (every channel dead).
        kept_x: directions of x that took part.
        kept_y: directions of y that took part.
        dead_x: channels of x without variance, to the resolution of the accumulation.
        dead_y: channels of y without variance.
        averaged: how many correlations the mean is over (all, or those that ``trim`` left).
        tol: rank tolerances used for x and for y.
        trim: the convention used; None where not asked for, as are ``variance``, ``side`` and ``k``.
        variance: of SVCCA.
        side: of PWCCA.
        weights: (..., min(kept_x, kept_y)) float64; of PWCCA, summing to 1; None for a plain mean.
        k: of SVCCA, where a number of directions was asked for.

    Example:
        >>> import torch
        >>> from prunecca import cca
        >>> x = torch.randn(300, 4, dtype=torch.float64)
        >>> result = cca(x, torch.cat([x[:, :2], torch.zeros(300, 1)], 1))
        >>> result.kept_x, result.kept_y, result.dead_y, [round(c, 6) for c in result.correlations.tolist()]
        (4, 2, 1, [1.0, 1.0])
    """

    correlations: Tensor
    mean: float | Tensor
    kept_x: int | Tensor
    kept_y: int | Tensor
    dead_x: int | Tensor
    dead_y: int | Tensor
    averaged: int | Tensor
    tol: tuple[float, float]
    trim: float | None = None
    variance: float | None = None
    side: Side | None = None
    weights: Tensor | None = None
    k: int | None = None

    def __float__(self) -> float:
        return float(self.mean)


@dataclass(frozen=True)
class Sides:
    """Both sides of a covariance: rank tolerances, the directions of each that take part, and what whitens them."""

    cov: Covariance
    tols: tuple[float, float]
    kept: tuple[Tensor, Tensor]
    whiteners: tuple[Tensor, Tensor]
    dead: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, cov: Covariance, tol: float | None, variance: float | None = None, k: int | None = None) -> Sides:
        """Of each side the directions above the tolerance; or of them the principal ones that hold a fraction of the
        variance, or the first ``k``.
        """
        if tol is not None and not 0.0 <= tol < 1.0:
            raise ValueError(f"tol is {tol}; expected a fraction of the largest eigenvalue, at least 0 and below 1")
        whole = variance is None and k is None
        spectra = correlation_spectra(cov) if whole else covariance_spectra(cov)
        dead = dead_channels(cov)
        tols, kept, whiteners = [], [], []
        for side, spectrum in zip(SIDES, spectra, strict=True):
            channels = spectrum.values.shape[-1]
            limit = default_tolerance(cov.precision, channels) if tol is None else float(tol)
            if whole:
                rank = spectrum.rank(limit)
                whitener = spectrum.whitener(rank)
            else:
                # A side whose channels are all dead has rounding noise for eigenvalues, which the tolerance would keep.
                alive = (live_deviations(cov, side) > 0).any(-1)
                wanted = _wanted(spectrum, variance, k)
                rank, whitener = _truncated(cov, side, spectrum, wanted, limit, alive)
            kept.append(rank)
            whiteners.append(whitener)
            tols.append(limit)
        return cls(cov, (tols[0], tols[1]), (kept[0], kept[1]), (whiteners[0], whiteners[1]), dead)

    @property
    def used(self) -> Tensor:
        """How many correlations there are, (...) int64."""
        return torch.minimum(*self.kept)

    def core(self) -> Tensor:
        """The cross-covariance of the whitened directions, whose singular values are the correlations."""
        return self.whiteners[0].mT @ self.cov.xy @ self.whiteners[1]

    def correlations(self) -> Tensor:
        """Largest first, (..., width); zero beyond those used."""
        found = _singular_values(self.core(), exact=self.cov.precision == "float64")
        return torch.where(first(self.used, found.shape[-1]), found, 0.0)

    def result(self, correlations: Tensor, mean: Tensor, averaged: Tensor) -> CanonicalCorrelations:
        """What a metric gives, its mean and the number averaged in it as it says."""
        return CanonicalCorrelations(
            correlations=correlations[: int(self.used)] if mean.ndim == 0 else correlations,
            mean=python_number(mean),
            kept_x=python_number(self.kept[0]),
            kept_y=python_number(self.kept[1]),
            dead_x=python_number(self.dead[0]),
            dead_y=python_number(self.dead[1]),
            averaged=python_number(averaged),
            tol=self.tols,
        )


def _wanted(spectrum: Spectrum, variance: float | None, k: int | None) -> Tensor:
    """How many principal directions a truncation asks for, (...) int64."""
    if k is not None:
        channels = spectrum.values.shape[-1]
        return torch.full_like(spectrum.values[..., 0], min(k, channels), dtype=torch.int64)
    return spectrum.rank_of_variance(1.0 if variance is None else variance)


def _truncated(
    cov: Covariance, side: Side, spectrum: Spectrum, wanted: Tensor, limit: float, alive: Tensor
) -> tuple[Tensor, Tensor]:
    """How many of the wanted principal directions there are, and what whitens them.

    Returns:
        The number, (...) int64, and the matrix, (..., C, largest number).
    """
    rank = spectrum.rank(limit)
    if not bool(((wanted > rank) | (wanted == spectrum.values.shape[-1])).any()):
        kept = torch.where(alive, wanted, 0)
        return kept, spectrum.whitener(kept)
    # A direction below the tolerance may be a narrow channel beside a wide one: what is rounding is told by the
    # correlations. Where all directions are asked for, CCA of them is invariant to the scales, and is taken so.
    alike = correlation_spectrum(cov, side)
    full = alike.rank(limit)
    kept = torch.where(alive, torch.minimum(wanted, full), 0)
    every = kept == full
    some, whole = spectrum.whitener(torch.where(every, 0, kept)), alike.whitener(torch.where(every, kept, 0))
    width = int(kept.max()) if kept.numel() else 0
    return kept, _widened(some, width) + _widened(whole, width)


def _widened(matrix: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(matrix, (0, width - matrix.shape[-1]))


def plain_mean(both: Sides, trim: float | None) -> CanonicalCorrelations:
    """The mean of all correlations, or of those that ``trim`` leaves."""
    if trim is not None and not 0.0 < trim <= 1.0:
        raise ValueError(f"trim is {trim}; expected None or a fraction above 0 and up to 1, such as 0.98")
    correlations = both.correlations()
    averaged = both.used
    if trim is not None and correlations.shape[-1]:
        sums = correlations.cumsum(-1)
        averaged = torch.minimum((sums < trim * sums[..., -1:]).sum(-1) + 1, averaged)
    mean = torch.where(first(averaged, correlations.shape[-1]), correlations, 0.0).sum(-1) / averaged
    return replace(both.result(correlations, mean, averaged), trim=trim)


def first(count: Tensor, width: int) -> Tensor:
    """True for the first ``count`` of ``width`` places, (..., width)."""
    return torch.arange(width, device=count.device) < count.unsqueeze(-1)


def _singular_values(core: Tensor, *, exact: bool) -> Tensor:
    # Through the smaller Gram matrix, five times faster: a correlation s comes out to 1e-16 / s, at worst (s = 0) to
    # 1e-8, which is below what float32 products leave in it.
    if exact:
        return svdvals(core).clamp(0.0, 1.0)
    gram = core @ core.mT if core.shape[-2] <= core.shape[-1] else core.mT @ core
    return eigvalsh(gram).flip(-1).clamp(0.0, 1.0).sqrt()


def left_singular(core: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
    """Left singular vectors, and singular values in [0, 1], largest first."""
    width = min(core.shape[-2:])
    if exact:
        left, values, _ = torch.linalg.svd(core, full_matrices=False)
        return left, values.clamp(0.0, 1.0)
    squares, left = eigh(core @ core.mT)
    return left.flip(-1)[..., :width], squares.flip(-1)[..., :width].clamp(0.0, 1.0).sqrt()
