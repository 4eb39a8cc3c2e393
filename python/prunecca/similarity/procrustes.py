"""Similarity up to rotations: normalised Bures similarity and Procrustes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..covariance.covariance import Covariance, Layout, Precision
from ..linalg.batched import svdvals
from .operands import nan_if_dead, paired_covariance, trace


def nbs(x: Any, y: Any = None, *, precision: Precision | None = None, layout: Layout = "infer") -> float | Tensor:
    """Normalised Bures similarity (Tang et al. 2020): nuclear norm of ``xy`` over ``sqrt(tr xx * tr yy)``.

    Invariant to orthogonal maps and to isotropic scaling. The Procrustes distance of Ding et al. 2021 between the
    representations scaled to unit norm is ``2 - 2 nbs``; the angle of Williams et al. 2021 is ``arccos(nbs)``.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, H, W) or, by ``layout``, other array.
        y: an array with the same rows.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The similarity, in [0, 1]; a (...) tensor of a batched covariance.

    Example:
        >>> import torch
        >>> from prunecca import nbs
        >>> x = torch.randn(200, 6)
        >>> rotation = torch.linalg.qr(torch.randn(6, 6)).Q
        >>> round(nbs(x, 3 * x @ rotation), 6)
        1.0
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    return nan_if_dead(cov, _bures(cov))


def procrustes(
    x: Any, y: Any = None, *, precision: Precision | None = None, layout: Layout = "infer"
) -> float | Tensor:
    """Variance of one side explained by the best rotation and scaling of the other (Gower 1975): ``nbs`` squared.

    It is 1 minus the disparity of a full Procrustes analysis, and the same in both directions. Invariant to orthogonal
    maps and to isotropic scaling; ``linear_regression`` is its counterpart for any linear map.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, H, W) or, by ``layout``, other array.
        y: an array with the same rows.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The similarity, in [0, 1]; a (...) tensor of a batched covariance.

    Example:
        >>> import torch
        >>> from prunecca import procrustes
        >>> x = torch.randn(200, 6)
        >>> round(procrustes(x, x.flip(1)), 6)
        1.0
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    return nan_if_dead(cov, _bures(cov).square())


def _bures(cov: Covariance) -> Tensor:
    # Singular values proper: through a Gram matrix the many small ones would lose half their digits and add up.
    nuclear = svdvals(cov.xy).sum(-1)
    return (nuclear / (trace(cov.xx) * trace(cov.yy)).sqrt()).clamp(0.0, 1.0)
