"""Similarity up to rotations: normalised Bures similarity, Procrustes, and their distances."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..covariance.covariance import Covariance, Layout, Precision
from ..linalg.batched import svdvals
from .operands import angle, chord, nan_if_dead, paired_covariance, trace


def nbs(x: Any, y: Any = None, *, precision: Precision | None = None, layout: Layout = "infer") -> float | Tensor:
    """Normalised Bures similarity (Tang et al. 2020): nuclear norm of ``xy`` over ``sqrt(tr xx * tr yy)``.

    Invariant to orthogonal maps and to isotropic scaling. ``procrustes_distance`` and ``angular_procrustes`` are its
    distance and its angle.

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
    cov = paired_covariance(x, y, precision=precision, layout=layout, rotated="chosen")
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
    cov = paired_covariance(x, y, precision=precision, layout=layout, rotated="chosen")
    return nan_if_dead(cov, _bures(cov).square())


def angular_procrustes(
    x: Any, y: Any = None, *, precision: Precision | None = None, layout: Layout = "auto"
) -> float | Tensor:
    """The angle that the best rotation leaves between two representations, ``arccos(nbs)`` (Williams et al. 2021).

    A metric, triangle inequality and all. Invariances are those of ``nbs``; rounding leaves 1e-7 of an angle of 0.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The angle, in [0, pi / 2]; a (...) tensor of a batched covariance.

    Example:
        >>> import math, torch
        >>> from prunecca import angular_procrustes, nbs
        >>> x, y = torch.randn(50, 4), torch.randn(50, 4)
        >>> math.isclose(math.cos(angular_procrustes(x, y)), nbs(x, y), abs_tol=1e-9)
        True
    """
    return angle(nbs(x, y, precision=precision, layout=layout))


def procrustes_distance(
    x: Any, y: Any = None, *, precision: Precision | None = None, layout: Layout = "auto"
) -> float | Tensor:
    """Distance of two representations of unit norm after the best rotation, ``sqrt(2 - 2 nbs)`` (Ding et al. 2021).

    Ding et al. give its square. It is the Bures distance of the two kernels scaled to unit trace. A metric; invariances
    are those of ``nbs``; rounding leaves 1e-7 of a distance of 0.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The distance, in [0, sqrt(2)]; a (...) tensor of a batched covariance.

    Example:
        >>> import torch
        >>> from prunecca import procrustes_distance
        >>> x = torch.randn(200, 6)
        >>> procrustes_distance(x, 5 * x.flip(1)) < 1e-3, procrustes_distance(x, torch.randn(200, 6)) > 0.5
        (True, True)
    """
    return chord(nbs(x, y, precision=precision, layout=layout))


def _bures(cov: Covariance) -> Tensor:
    # Singular values proper: through a Gram matrix the many small ones would lose half their digits and add up.
    nuclear = svdvals(cov.xy).sum(-1)
    return (nuclear / (trace(cov.xx) * trace(cov.yy)).sqrt()).clamp(0.0, 1.0)
