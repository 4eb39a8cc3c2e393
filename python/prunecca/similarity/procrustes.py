"""Similarity up to rotations: normalised Bures similarity and Procrustes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..covariance.covariance import Covariance, Layout, Precision
from ..linalg.batched import svdvals_batched
from ..linalg.threads import values_of
from .operands import as_value, paired_covariance, trace


def nbs(x: Any, y: Any = None, *, precision: Precision | None = None, layout: Layout = "auto") -> float | Tensor:
    """Normalised Bures similarity (Tang et al. 2020): nuclear norm of ``xy`` over ``sqrt(tr xx * tr yy)``.

    Arguments and invariances as for ``linear_cka``. The Procrustes distance of Ding et al. 2021 between the
    representations scaled to unit norm is ``2 - 2 nbs``; the angle of Williams et al. 2021 is ``arccos(nbs)``.
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    return as_value(cov, _bures(cov))


def procrustes(x: Any, y: Any = None, *, precision: Precision | None = None, layout: Layout = "auto") -> float | Tensor:
    """Variance of one side explained by the best rotation and scaling of the other (Gower 1975): ``nbs`` squared.

    It is 1 minus the disparity of a full Procrustes analysis, and the same in both directions. Arguments and
    invariances as for ``linear_cka``; ``linear_regression`` is its counterpart for any linear map.
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    return as_value(cov, _bures(cov).square())


def _bures(cov: Covariance) -> Tensor:
    # Singular values proper: through a Gram matrix the many small ones would lose half their digits and add up.
    nuclear = values_of(svdvals_batched, cov.xy).sum(-1)
    return (nuclear / (trace(cov.xx) * trace(cov.yy)).sqrt()).clamp(0.0, 1.0)
