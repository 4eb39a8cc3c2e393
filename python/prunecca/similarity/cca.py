"""Canonical correlations of two representations, and the three averages of them: CCA, SVCCA, PWCCA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..covariance.covariance import Covariance, Layout, Precision
from ..linalg.batched import eigh, eigvalsh, svdvals
from .operands import SIDES, Side, dead_channels, paired_covariance, python_number
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
        mean: the metric's value, in [0, 1]; NaN where a side has no variance at all (every channel dead).
        kept_x: directions of x that took part.
        kept_y: directions of y that took part.
        dead_x: channels of x without variance, to the resolution of the accumulation.
        dead_y: channels of y without variance.
        averaged: how many correlations the mean is over (all, or those that ``trim`` left).
        tol: rank tolerances used for x and for y.
        trim: the convention used; None where not asked for, as are ``variance`` and ``side``.
        variance: of SVCCA.
        side: of PWCCA.
        weights: (..., min(kept_x, kept_y)) float64; of PWCCA, summing to 1; None for a plain mean.

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

    def __float__(self) -> float:
        return float(self.mean)


def cca(
    x: Any,
    y: Any = None,
    *,
    tol: float | None = None,
    trim: float | None = None,
    precision: Precision | None = None,
    layout: Layout = "infer",
) -> CanonicalCorrelations:
    """Mean canonical correlation (Hotelling 1936; Raghu et al. 2017 without the truncation).

    Invariant to invertible maps of either side. Directions are those of the correlations between the channels of a side, so
    that the scale of a channel decides nothing. CCA gives the smallest directions as much weight as the largest ones: a
    direction with the fraction r of the largest eigenvalue has its correlation to about ``1e-8 * sqrt(channels) / r``
    with float32 products. Accumulate with ``precision="float64"`` where such directions matter.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, H, W) or, by ``layout``, other array: torch, NumPy, a memory map. Arrays are
            read in tiles of rows.
        y: an array with the same rows.
        tol: directions with an eigenvalue of the correlation matrix of ``tol`` times the largest or less are left out.
            Default: ``10 * error * sqrt(channels)``, where error is 1e-7 for products accumulated in float32 and 1e-14 in
            float64.
        trim: None averages all ``min(kept_x, kept_y)`` correlations. A number in (0, 1] averages the first k alone, k
            the smallest whose sum reaches ``trim`` of the sum of all; 0.98 is what the code published with SVCCA does.
        precision: of the products when arrays are given: ``"float32"``, ``"float64"``, or None (float64 for float64
            arrays and for few rows).
        layout: which dimension holds the channels, such as ``"nlc"``; needed for arrays of 3 dimensions.

    Returns:
        The correlations and their mean.

    Raises:
        TypeError: neither a ``Covariance`` nor two arrays were given.
        ValueError: values that are not finite, rows that do not match, or an option outside of its range.

    Example:
        >>> import torch
        >>> from prunecca import cca
        >>> x = torch.randn(300, 5)
        >>> round(cca(x, x @ torch.randn(5, 5)).mean, 4)
        1.0
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    return _plain_mean(_Sides.of(cov, tol), trim)


def svcca(
    x: Any,
    y: Any = None,
    *,
    variance: float = 0.99,
    tol: float | None = None,
    trim: float | None = None,
    precision: Precision | None = None,
    layout: Layout = "infer",
) -> CanonicalCorrelations:
    """Singular vector CCA (Raghu et al. 2017): CCA of the leading principal directions of each side.

    Invariant to orthogonal maps and to isotropic scaling of either side, but not to the scale of single channels: the
    truncation by variance keeps the directions of wide channels, and one channel that is 1000 times wider than the others
    may be all that is kept. The CCA of what is kept does not depend on scales. Float32 products are all it needs.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, H, W) or, by ``layout``, other array.
        y: an array with the same rows.
        variance: each side keeps the smallest number of directions whose eigenvalues of the covariance hold at least
            this fraction of its trace; 1 keeps all, as ``cca`` does.
        tol: directions with an eigenvalue of the covariance of ``tol`` times the largest or less are left out, unless the
            fraction asks for more: then as in ``cca``.
        trim: as in ``cca``.
        precision: as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The correlations and their mean.

    Raises:
        TypeError: as ``cca``.
        ValueError: as ``cca``.

    Example:
        >>> import torch
        >>> from prunecca import svcca
        >>> x = torch.randn(300, 5) * torch.tensor([9.0, 3.0, 1.0, 0.1, 0.1])
        >>> svcca(x, x.flip(1), variance=0.95).kept_x
        2
    """
    if not 0.0 < variance <= 1.0:
        raise ValueError(f"variance is {variance}; expected a fraction above 0 and up to 1, such as 0.99")
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    return replace(_plain_mean(_Sides.of(cov, tol, variance), trim), variance=variance)


def pwcca(
    x: Any,
    y: Any = None,
    *,
    side: Side = "x",
    tol: float | None = None,
    precision: Precision | None = None,
    layout: Layout = "infer",
) -> CanonicalCorrelations:
    """Projection weighted CCA (Morcos et al. 2018, equation 2): correlations weighted by what they explain of one side.

    With h_i the canonical variates of ``side`` and z_j its channels, the weight of correlation i is proportional to
    ``sum_j |<h_i, z_j>|``. The accuracy is that of ``cca``; as there, the correlations do not depend on the scale of any
    channel, but by their definition the weights do on the scales of the channels of ``side``.

    This follows the paper. The code published with it (google/svcca) differs: it projects on the rotations that
    multiply the whitened data without whitening, adds the means back, orthogonalises again by QR, and takes the side
    with fewer channels. Tied correlations have arbitrary canonical variates, hence arbitrary shares of their weight.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, H, W) or, by ``layout``, other array.
        y: an array with the same rows.
        side: whose channels give the weights.
        tol: as in ``cca``.
        precision: as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The correlations, their weights and the weighted mean.

    Raises:
        TypeError: as ``cca``.
        ValueError: as ``cca``.

    Example:
        >>> import torch
        >>> from prunecca import pwcca
        >>> x = torch.randn(300, 5)
        >>> result = pwcca(x, x + torch.randn(300, 5), side="y")
        >>> round(float(result.weights.sum()), 6), 0 < result.mean < 1
        (1.0, True)
    """
    if side not in ("x", "y"):
        raise ValueError(f"side is {side!r}; expected 'x' or 'y'")
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    both = _Sides.of(cov, tol)
    spectra = correlation_spectra(cov)
    weighted = 0 if side == "x" else 1
    core = both.core() if side == "x" else both.core().mT
    directions, correlations = _left_singular(core, exact=cov.precision == "float64")
    inside = _first(both.used, correlations.shape[-1])
    correlations = torch.where(inside, correlations, 0.0)
    projections = spectra[weighted].loadings(both.kept[weighted]) @ directions
    raw = torch.where(inside, projections.abs().sum(-2), 0.0)
    weights = raw / raw.sum(-1, keepdim=True)
    mean = torch.where(both.used > 0, (weights * correlations).sum(-1).clamp(0.0, 1.0), torch.nan)
    result = replace(both.result(correlations, mean, both.used), side=side)
    return replace(result, weights=weights[..., : result.correlations.shape[-1]])


@dataclass(frozen=True)
class _Sides:
    """Both sides of a covariance: rank tolerances, the directions of each that take part, and what whitens them."""

    cov: Covariance
    tols: tuple[float, float]
    kept: tuple[Tensor, Tensor]
    whiteners: tuple[Tensor, Tensor]
    dead: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, cov: Covariance, tol: float | None, variance: float | None = None) -> _Sides:
        """Of each side the directions above the tolerance, or those of them that hold a fraction of the variance."""
        if tol is not None and not 0.0 <= tol < 1.0:
            raise ValueError(f"tol is {tol}; expected a fraction of the largest eigenvalue, at least 0 and below 1")
        spectra = correlation_spectra(cov) if variance is None else covariance_spectra(cov)
        dead = dead_channels(cov)
        tols, kept, whiteners = [], [], []
        for side, spectrum, constant in zip(SIDES, spectra, dead, strict=True):
            channels = spectrum.values.shape[-1]
            limit = default_tolerance(cov.precision, channels) if tol is None else float(tol)
            if variance is None:
                rank = spectrum.rank(limit)
                whitener = spectrum.whitener(rank)
            else:
                # A side whose channels are all dead has rounding noise for eigenvalues, which the tolerance would keep.
                alive = constant < channels
                rank, whitener = _truncated(cov, side, spectrum, variance, limit, alive)
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

    def result(self, correlations: Tensor, mean: Tensor, averaged: Tensor) -> CanonicalCorrelations:
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


def _truncated(
    cov: Covariance, side: Side, spectrum: Spectrum, variance: float, limit: float, alive: Tensor
) -> tuple[Tensor, Tensor]:
    """How many principal directions hold a fraction of the variance, and what whitens them.

    Returns:
        The number, (...) int64, and the matrix, (..., C, largest number).
    """
    wanted, rank = spectrum.rank_of_variance(variance), spectrum.rank(limit)
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


def _plain_mean(both: _Sides, trim: float | None) -> CanonicalCorrelations:
    if trim is not None and not 0.0 < trim <= 1.0:
        raise ValueError(f"trim is {trim}; expected None or a fraction above 0 and up to 1, such as 0.98")
    correlations = _singular_values(both.core(), exact=both.cov.precision == "float64")
    correlations = torch.where(_first(both.used, correlations.shape[-1]), correlations, 0.0)
    averaged = both.used
    if trim is not None and correlations.shape[-1]:
        sums = correlations.cumsum(-1)
        averaged = torch.minimum((sums < trim * sums[..., -1:]).sum(-1) + 1, averaged)
    mean = torch.where(_first(averaged, correlations.shape[-1]), correlations, 0.0).sum(-1) / averaged
    return replace(both.result(correlations, mean, averaged), trim=trim)


def _first(count: Tensor, width: int) -> Tensor:
    return torch.arange(width, device=count.device) < count.unsqueeze(-1)


def _singular_values(core: Tensor, *, exact: bool) -> Tensor:
    # Through the smaller Gram matrix, five times faster: a correlation s comes out to 1e-16 / s, at worst (s = 0) to
    # 1e-8, which is below what float32 products leave in it.
    if exact:
        return svdvals(core).clamp(0.0, 1.0)
    gram = core @ core.mT if core.shape[-2] <= core.shape[-1] else core.mT @ core
    return eigvalsh(gram).flip(-1).clamp(0.0, 1.0).sqrt()


def _left_singular(core: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
    width = min(core.shape[-2:])
    if exact:
        left, values, _ = torch.linalg.svd(core, full_matrices=False)
        return left, values.clamp(0.0, 1.0)
    squares, left = eigh(core @ core.mT)
    return left.flip(-1)[..., :width], squares.flip(-1)[..., :width].clamp(0.0, 1.0).sqrt()
