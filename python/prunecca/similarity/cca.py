"""Canonical correlations of two representations, and the three averages of them: CCA, SVCCA, PWCCA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..covariance.covariance import Covariance, Layout, Precision
from ..linalg.batched import eigh_batched, eigvalsh_batched, svdvals_batched
from ..linalg.threads import values_of
from .operands import dead_channels, number, paired_covariance
from .spectrum import Spectrum, default_tolerance, spectra_of

Side = Literal["x", "y"]


@dataclass(frozen=True)
class CanonicalCorrelations:
    """Canonical correlations and the average of them that a metric makes its value.

    Of one pair, the numbers are Python numbers; of a batched covariance they are tensors of its leading shape, and
    ``correlations`` is padded with zeros beyond ``min(kept_x, kept_y)``.

    correlations: float64 tensor ``(..., min(kept_x, kept_y))``, largest first, in [0, 1].
    mean: the metric's value, in [0, 1]; NaN where a side has no variance at all (every channel dead).
    kept_x, kept_y: directions of each side that took part.
    dead_x, dead_y: channels without variance, to the resolution of the accumulation.
    averaged: how many correlations the mean is over (all, or those that ``trim`` left).
    tol: rank tolerances used for x and for y. trim, variance, side: the conventions used, None where not asked for.
    weights: of PWCCA, ``(..., min(kept_x, kept_y))``, summing to 1; None for a plain mean.
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
    layout: Layout = "auto",
) -> CanonicalCorrelations:
    """Mean canonical correlation (Hotelling 1936; Raghu et al. 2017 without the truncation).

    x, y: a ``Covariance`` alone, or two arrays with shared rows, ``(N, C)``, ``(N, C, H, W)`` or ``(N, C, L)``
        (``(N, L, C)`` with ``layout="nlc"``): torch, NumPy, a memory map. Arrays are read in tiles of rows.
    tol: directions with an eigenvalue of ``tol`` times the largest or less are left out. Default: ``10 * error *
        sqrt(channels)``, where error is 1e-7 for products accumulated in float32 and 1e-14 in float64.
    trim: None averages all ``min(kept_x, kept_y)`` correlations. A number in (0, 1] averages the first k alone, k the
        smallest whose sum reaches ``trim`` of the sum of all; 0.98 is what the code published with SVCCA does.
    precision: of the products when arrays are given: "float32", "float64", or None (float64 for float64 arrays).

    CCA gives the smallest directions as much weight as the largest ones: a direction with the fraction r of the
    largest eigenvalue has its correlation to about ``1e-8 * sqrt(channels) / r`` with float32 products. Accumulate
    with ``precision="float64"`` where such directions matter.
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    spectra, tols = _sides(cov, tol)
    kept = (spectra[0].rank(tols[0]), spectra[1].rank(tols[1]))
    return _plain_mean(cov, spectra, kept, tols, trim, variance=None)


def svcca(
    x: Any,
    y: Any = None,
    *,
    variance: float = 0.99,
    tol: float | None = None,
    trim: float | None = None,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> CanonicalCorrelations:
    """Singular vector CCA (Raghu et al. 2017): CCA of the leading principal directions of each side.

    Each side keeps the smallest number of directions whose eigenvalues of the covariance hold at least the fraction
    ``variance`` of its trace. The other arguments are those of ``cca``. Float32 products are all it needs.
    """
    if not 0.0 < variance <= 1.0:
        raise ValueError(f"variance is {variance}; expected a fraction above 0 and up to 1, such as 0.99")
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    spectra, tols = _sides(cov, tol)
    kept = (spectra[0].rank_of_variance(variance, tols[0]), spectra[1].rank_of_variance(variance, tols[1]))
    return _plain_mean(cov, spectra, kept, tols, trim, variance)


def pwcca(
    x: Any,
    y: Any = None,
    *,
    side: Side = "x",
    tol: float | None = None,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> CanonicalCorrelations:
    """Projection weighted CCA (Morcos et al. 2018, equation 2): correlations weighted by what they explain of one side.

    With h_i the canonical variates of ``side`` and z_j its channels, the weight of correlation i is proportional to
    ``sum_j |<h_i, z_j>|``. The other arguments and the accuracy are those of ``cca``.

    This follows the paper. The code published with it (google/svcca) differs: it projects on the rotations that
    multiply the whitened data without whitening, adds the means back, orthogonalises again by QR, and takes the side
    with fewer channels. Tied correlations have arbitrary canonical variates, hence arbitrary shares of their weight.
    """
    if side not in ("x", "y"):
        raise ValueError(f"side is {side!r}; expected 'x' or 'y'")
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    spectra, tols = _sides(cov, tol)
    kept, dead = _alive(cov, (spectra[0].rank(tols[0]), spectra[1].rank(tols[1])))
    core = _core(cov, spectra, kept)
    if side == "x":
        own, own_kept = spectra[0], kept[0]
    else:
        core, own, own_kept = core.mT, spectra[1], kept[1]
    directions, correlations = _left_singular(core, exact=cov.precision == "float64")
    used = torch.minimum(*kept)
    inside = _first(used, correlations.shape[-1])
    correlations = torch.where(inside, correlations, 0.0)
    raw = torch.where(inside, (own.loadings(own_kept) @ directions).abs().sum(-2), 0.0)
    weights = raw / raw.sum(-1, keepdim=True)
    mean = torch.where(used > 0, (weights * correlations).sum(-1), torch.nan)
    return _result(correlations, mean, kept, dead, used, tols, side=side, weights=weights)


def _sides(cov: Covariance, tol: float | None) -> tuple[tuple[Spectrum, Spectrum], tuple[float, float]]:
    if tol is not None and not 0.0 <= tol < 1.0:
        raise ValueError(f"tol is {tol}; expected a fraction of the largest eigenvalue, at least 0 and below 1")
    tols = tuple(default_tolerance(cov.precision, m.shape[-1]) if tol is None else float(tol) for m in (cov.xx, cov.yy))
    return spectra_of(cov.xx, cov.yy), (tols[0], tols[1])


def _plain_mean(
    cov: Covariance,
    spectra: tuple[Spectrum, Spectrum],
    ranks: tuple[Tensor, Tensor],
    tols: tuple[float, float],
    trim: float | None,
    variance: float | None,
) -> CanonicalCorrelations:
    if trim is not None and not 0.0 < trim <= 1.0:
        raise ValueError(f"trim is {trim}; expected None or a fraction above 0 and up to 1, such as 0.98")
    kept, dead = _alive(cov, ranks)
    used = torch.minimum(*kept)
    correlations = _singular_values(_core(cov, spectra, kept), exact=cov.precision == "float64")
    correlations = torch.where(_first(used, correlations.shape[-1]), correlations, 0.0)
    averaged = used
    if trim is not None and correlations.shape[-1]:
        held = correlations.cumsum(-1)
        averaged = torch.minimum((held < trim * held[..., -1:]).sum(-1) + 1, used)
    mean = torch.where(_first(averaged, correlations.shape[-1]), correlations, 0.0).sum(-1) / averaged
    return _result(correlations, mean, kept, dead, averaged, tols, trim=trim, variance=variance)


def _alive(cov: Covariance, ranks: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    # A side whose channels are all dead has rounding noise for eigenvalues, which a relative tolerance would keep.
    dead = dead_channels(cov)
    kept = (
        torch.where(dead[0] == cov.xx.shape[-1], 0, ranks[0]),
        torch.where(dead[1] == cov.yy.shape[-1], 0, ranks[1]),
    )
    return kept, dead


def _core(cov: Covariance, spectra: tuple[Spectrum, Spectrum], kept: tuple[Tensor, Tensor]) -> Tensor:
    return spectra[0].whitener(kept[0]).mT @ cov.xy @ spectra[1].whitener(kept[1])


def _first(count: Tensor, width: int) -> Tensor:
    return torch.arange(width, device=count.device) < count.unsqueeze(-1)


def _singular_values(core: Tensor, *, exact: bool) -> Tensor:
    # Through the smaller Gram matrix, five times faster: a correlation s comes out to 1e-16 / s, at worst (s = 0) to
    # 1e-8, which is below what float32 products leave in it.
    if exact:
        values = values_of(svdvals_batched, core)
        return values.clamp(0.0, 1.0)
    gram = core @ core.mT if core.shape[-2] <= core.shape[-1] else core.mT @ core
    squares = values_of(eigvalsh_batched, gram)
    return squares.flip(-1).clamp(0.0, 1.0).sqrt()


def _left_singular(core: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
    width = min(core.shape[-2:])
    if exact:
        left, values, _ = torch.linalg.svd(core, full_matrices=False)
        return left, values.clamp(0.0, 1.0)
    squares, left = eigh_batched(core @ core.mT)
    return left.flip(-1)[..., :width], squares.flip(-1)[..., :width].clamp(0.0, 1.0).sqrt()


def _result(
    correlations: Tensor,
    mean: Tensor,
    kept: tuple[Tensor, Tensor],
    dead: tuple[Tensor, Tensor],
    averaged: Tensor,
    tols: tuple[float, float],
    **conventions: Any,
) -> CanonicalCorrelations:
    if mean.ndim == 0:
        correlations = correlations[: int(torch.minimum(*kept))]
        if conventions.get("weights") is not None:
            conventions["weights"] = conventions["weights"][: correlations.shape[-1]]
    return CanonicalCorrelations(
        correlations,
        number(mean),
        number(kept[0]),
        number(kept[1]),
        number(dead[0]),
        number(dead[1]),
        number(averaged),
        tols,
        **conventions,
    )
