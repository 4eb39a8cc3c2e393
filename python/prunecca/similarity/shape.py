"""Distances between the shapes of representations, from rotations alone to any invertible map, and those of predictors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..covariance.covariance import Covariance, Layout, Precision
from ..linalg.batched import svdvals
from .canonical import Sides
from .operands import nan_if_dead, paired_covariance, squared_norm, trace, warn_of_few_rows
from .spectrum import Spectrum, covariance_spectra, default_tolerance


def shape_distance(
    x: Any,
    y: Any = None,
    *,
    alpha: float = 0.5,
    tol: float | None = None,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> float | Tensor:
    """Generalised shape metric (Williams et al. 2021): the angle that is left after partial whitening and rotation.

    With ``W = alpha I + (1 - alpha) S^(-1/2)`` of each side, ``arccos(|W_x xy W_y|_* / (|x W_x| |y W_y|))``, where
    ``|.|_*`` is the nuclear norm. A metric in the sense of the word, triangle inequality and all. ``alpha=1`` is
    ``angular_procrustes``; ``alpha=0`` is an angle of CCA, whose cosine is ``sum of r_i / sqrt(k_x k_y)``.

    Invariant to orthogonal maps and, because S is the covariance over the mean of its eigenvalues, to isotropic scaling;
    the paper's S is ``X'X``, so that for an alpha in between the values agree where that mean is 1. Invariant to invertible
    maps for ``alpha=0`` alone. Float32 products are all it needs, unless alpha is close to 0: then as for ``cca``.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        alpha: 1 for no whitening, 0 for full whitening.
        tol: directions with an eigenvalue of the covariance (of the correlations for ``alpha=0``) of ``tol`` times the
            largest or less are left out; default as in ``cca``.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The angle, in [0, pi / 2]; a (...) tensor of a batched covariance.

    Raises:
        ValueError: an option outside of its range.

    Warns:
        FewRows: with ``alpha=0``, as ``cca``.

    Example:
        >>> import torch
        >>> from prunecca import shape_distance
        >>> x = torch.randn(200, 6)
        >>> y = x * torch.tensor([9.0, 1.0, 1.0, 1.0, 1.0, 1.0])
        >>> shape_distance(x, y, alpha=0.0) < 1e-3 < shape_distance(x, y, alpha=0.5) < shape_distance(x, y, alpha=1.0)
        True
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}; expected a number from 0 (full whitening) to 1 (none)")
    if tol is not None and not 0.0 <= tol < 1.0:
        raise ValueError(f"tol is {tol}; expected a fraction of the largest eigenvalue, at least 0 and below 1")
    cov = paired_covariance(x, y, precision=precision, layout=layout, rotated="chosen")
    if alpha == 0.0:  # of any invertible map: whitened as for CCA, whatever the scales of the channels
        both = Sides.of(cov, tol)
        warn_of_few_rows("shape_distance", cov.count, *both.kept)
        core, sizes = both.core(), (both.kept[0] * both.kept[1]).double()
    else:
        (left, own_x), (right, own_y) = (
            _partial_whitener(cov, spectrum, alpha, tol) for spectrum in covariance_spectra(cov)
        )
        core, sizes = left.mT @ cov.xy @ right, own_x * own_y
    cosine = svdvals(core).sum(-1) / sizes.sqrt()
    return nan_if_dead(cov, cosine.clamp(0.0, 1.0).arccos())


def gulp(
    x: Any,
    y: Any = None,
    *,
    ridge: float = 0.01,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> float | Tensor:
    """GULP distance (Boix-Adsera et al. 2022): how far ridge regressions on two representations can predict apart.

    The root of ``tr(xx L xx L) + tr(yy M yy M) - 2 tr(L xy M yx)`` with ``L = (xx + ridge I)^-1`` and ``M`` likewise of
    yy: the mean squared difference of the two fits, averaged over all targets of unit norm, of representations scaled to a
    mean squared norm of 1. Invariant to orthogonal maps and to isotropic scaling; with ``ridge`` near 0 to invertible
    maps, where it is ``sqrt(k_x + k_y - 2 sum of r_i^2)``. The code published with the paper gives the square. Float32 products are all it needs, as long as ``ridge`` is
    well above their error of 1e-7.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        ridge: the penalty, lambda in the paper, above 0, beside a total variance of 1.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The distance, at least 0, and at most the root of the number of channels of both; a (...) tensor of a batched
        covariance.

    Raises:
        ValueError: a penalty that is not above 0.

    Example:
        >>> import torch
        >>> from prunecca import gulp
        >>> x, y = torch.randn(300, 6), torch.randn(300, 6)
        >>> gulp(x, 3 * x.flip(1)) < 1e-3 < gulp(x, x + y) < gulp(x, y)
        True
    """
    if not 0.0 < ridge < math.inf:
        raise ValueError(f"ridge is {ridge}; expected a penalty above 0, such as 0.01")
    cov = paired_covariance(x, y, precision=precision, layout=layout, rotated="chosen")
    spectrum_x, spectrum_y = covariance_spectra(cov)
    total_x, total_y = trace(cov.xx), trace(cov.yy)
    (left, own_x), (right, own_y) = (
        _ridge_root(spectrum, total, ridge) for spectrum, total in ((spectrum_x, total_x), (spectrum_y, total_y))
    )
    cross = squared_norm(left.mT @ cov.xy @ right) / (total_x * total_y)
    return nan_if_dead(cov, (own_x + own_y - 2.0 * cross).clamp_min(0.0).sqrt())


def _partial_whitener(cov: Covariance, spectrum: Spectrum, alpha: float, tol: float | None) -> tuple[Tensor, Tensor]:
    """What whitens a side in part, (..., C, C), and the variance of the side after that, (...)."""
    values = spectrum.values
    limit = default_tolerance(cov.precision, values.shape[-1]) if tol is None else float(tol)
    kept = spectrum.rank(limit).unsqueeze(-1)
    inside = torch.arange(values.shape[-1], device=values.device) < kept
    mean = torch.where(inside, values, 0.0).sum(-1, keepdim=True) / kept
    scale = torch.where(inside, alpha + (1.0 - alpha) * (mean / values).sqrt(), 0.0)
    return spectrum.vectors * scale.unsqueeze(-2), (scale.square() * values).sum(-1)


def _ridge_root(spectrum: Spectrum, total: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """A root of the inverse of the scaled covariance with the penalty, (..., C, C), and the squared fit of itself."""
    values = spectrum.values / total.unsqueeze(-1)
    own = (values / (values + ridge)).square().sum(-1)
    return spectrum.vectors * (values + ridge).rsqrt().unsqueeze(-2), own
