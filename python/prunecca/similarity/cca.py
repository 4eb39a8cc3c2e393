"""Averages of the canonical correlations of two representations: CCA, SVCCA, PWCCA, and those of their squares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..covariance.covariance import Layout, Precision
from .canonical import CanonicalCorrelations, Sides, first, left_singular, plain_mean
from .operands import Side, paired_covariance, warn_of_few_rows
from .spectrum import correlation_spectra


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

    Warns:
        FewRows: no more rows than directions, which makes the value meaningless, or fewer than 10 a direction.

    Example:
        >>> import torch
        >>> from prunecca import cca
        >>> x = torch.randn(300, 5)
        >>> round(cca(x, x @ torch.randn(5, 5)).mean, 4)
        1.0
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout, rotated="accepted")
    result = plain_mean(Sides.of(cov, tol), trim)
    warn_of_few_rows("cca", cov.count, result.kept_x, result.kept_y)
    return result


def svcca(
    x: Any,
    y: Any = None,
    *,
    variance: float = 0.99,
    k: int | None = None,
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
        k: each side keeps this many leading directions, or all where it has fewer, in place of what ``variance`` says.
        tol: directions with an eigenvalue of the covariance of ``tol`` times the largest or less are left out, unless
            more are asked for: then as in ``cca``.
        trim: as in ``cca``.
        precision: as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The correlations and their mean.

    Raises:
        TypeError: as ``cca``.
        ValueError: as ``cca``.

    Warns:
        FewRows: as ``cca``.

    Example:
        >>> import torch
        >>> from prunecca import svcca
        >>> x = torch.randn(300, 5) * torch.tensor([9.0, 3.0, 1.0, 0.1, 0.1])
        >>> svcca(x, x.flip(1), variance=0.95).kept_x, svcca(x, x.flip(1), k=3).kept_x
        (2, 3)
    """
    if not 0.0 < variance <= 1.0:
        raise ValueError(f"variance is {variance}; expected a fraction above 0 and up to 1, such as 0.99")
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise ValueError(
            f"k is {k!r}; expected a number of directions of at least 1, or None for the fraction of variance"
        )
    cov = paired_covariance(x, y, precision=precision, layout=layout, rotated="chosen")
    kept = None if k is not None else variance
    result = plain_mean(Sides.of(cov, tol, kept, k), trim)
    warn_of_few_rows("svcca", cov.count, result.kept_x, result.kept_y)
    return replace(result, variance=kept, k=k)


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

    Warns:
        FewRows: as ``cca``.

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
    both = Sides.of(cov, tol)
    warn_of_few_rows("pwcca", cov.count, *both.kept)
    spectra = correlation_spectra(cov)
    weighted = 0 if side == "x" else 1
    core = both.core() if side == "x" else both.core().mT
    directions, correlations = left_singular(core, exact=cov.precision == "float64")
    inside = first(both.used, correlations.shape[-1])
    correlations = torch.where(inside, correlations, 0.0)
    projections = spectra[weighted].loadings(both.kept[weighted]) @ directions
    raw = torch.where(inside, projections.abs().sum(-2), 0.0)
    weights = raw / raw.sum(-1, keepdim=True)
    mean = torch.where(both.used > 0, (weights * correlations).sum(-1).clamp(0.0, 1.0), torch.nan)
    result = replace(both.result(correlations, mean, both.used), side=side)
    return replace(result, weights=weights[..., : result.correlations.shape[-1]])


def mean_squared_cca(
    x: Any,
    y: Any = None,
    *,
    tol: float | None = None,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> CanonicalCorrelations:
    """Mean squared canonical correlation (Kornblith et al. 2019, R squared CCA): ``sum of r_i^2 / min(k_x, k_y)``.

    Invariant to invertible maps of either side. Accuracy as for ``cca``; squares make less of the small correlations
    that chance leaves.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        tol: as in ``cca``.
        precision: as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The correlations, and the mean of their squares.

    Raises:
        TypeError: as ``cca``.
        ValueError: as ``cca``.

    Warns:
        FewRows: as ``cca``.

    Example:
        >>> import torch
        >>> from prunecca import mean_squared_cca
        >>> result = mean_squared_cca(torch.randn(300, 5), torch.randn(300, 5))
        >>> abs(result.mean - float((result.correlations**2).mean())) < 1e-9
        True
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout, rotated="accepted")
    both = Sides.of(cov, tol)
    warn_of_few_rows("mean_squared_cca", cov.count, *both.kept)
    return _of_squares(both, both.used)


def yanai(
    x: Any,
    y: Any = None,
    *,
    tol: float | None = None,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> CanonicalCorrelations:
    """Yanai's generalised coefficient of determination (Yanai 1974): ``sum of r_i^2 / sqrt(k_x k_y)``.

    It is ``tr(P_x P_y) / sqrt(tr P_x tr P_y)`` of the projections on the two spans of channels: the linear CKA of
    whitened representations. Invariant to invertible maps of either side. It is 1 only where both spans are the same;
    ``mean_squared_cca`` is 1 where one holds the other. Accuracy as for ``cca``.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        tol: as in ``cca``.
        precision: as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The correlations, and the coefficient as their ``mean``.

    Raises:
        TypeError: as ``cca``.
        ValueError: as ``cca``.

    Warns:
        FewRows: as ``cca``.

    Example:
        >>> import torch
        >>> from prunecca import yanai
        >>> x = torch.randn(300, 8)
        >>> round(yanai(x, x[:, :2]).mean, 6)
        0.5
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout, rotated="accepted")
    both = Sides.of(cov, tol)
    warn_of_few_rows("yanai", cov.count, *both.kept)
    return _of_squares(both, (both.kept[0] * both.kept[1]).double().sqrt())


def pillai(
    x: Any,
    y: Any = None,
    *,
    normalised: bool = True,
    tol: float | None = None,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> CanonicalCorrelations:
    """Pillai's trace (Pillai 1955), ``sum of r_i^2``, over the largest value that it can have, ``min(k_x, k_y)``.

    So normalised it is ``mean_squared_cca`` by another name; statistical packages report the trace itself. Invariant to
    invertible maps of either side. Accuracy as for ``cca``.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        normalised: False gives the trace itself, in [0, min(k_x, k_y)].
        tol: as in ``cca``.
        precision: as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The correlations, and the trace as their ``mean``.

    Raises:
        TypeError: as ``cca``.
        ValueError: as ``cca``.

    Warns:
        FewRows: as ``cca``.

    Example:
        >>> import torch
        >>> from prunecca import pillai
        >>> x = torch.randn(300, 3)
        >>> round(pillai(x, 2 * x).mean, 6), round(pillai(x, 2 * x, normalised=False).mean, 6)
        (1.0, 3.0)
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout, rotated="accepted")
    both = Sides.of(cov, tol)
    warn_of_few_rows("pillai", cov.count, *both.kept)
    return _of_squares(both, both.used if normalised else both.used.clamp(0, 1))


def _of_squares(both: Sides, divisor: Tensor) -> CanonicalCorrelations:
    """The sum of the squared correlations over a number that is 0, so that the value is NaN, where there are none."""
    correlations = both.correlations()
    return both.result(correlations, correlations.square().sum(-1) / divisor, both.used)
