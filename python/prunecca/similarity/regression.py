"""Similarity up to linear maps: explained variance of a least-squares fit."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from ..covariance.covariance import Layout, Precision
from .operands import as_value, paired_covariance, squared_norm, trace
from .spectrum import default_tolerance, spectrum_of


def linear_regression(
    x: Any,
    y: Any = None,
    *,
    target: Literal["x", "y"] = "y",
    tol: float | None = None,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> float | Tensor:
    """Fraction of the variance of ``target`` explained by a least-squares fit on the other side: R squared.

    ``tr(yx xx^+ xy) / tr yy`` for target y (Kornblith et al. 2019, table 1). Not symmetric; invariant to invertible
    maps of the predicting side and to orthogonal maps and scaling of the target. Directions of the predicting side
    with an eigenvalue of ``tol`` times the largest or less are not used; default and accuracy as for ``cca``.
    """
    if target not in ("x", "y"):
        raise ValueError(f"target is {target!r}; expected 'x' or 'y'")
    if tol is not None and not 0.0 <= tol < 1.0:
        raise ValueError(f"tol is {tol}; expected a fraction of the largest eigenvalue, at least 0 and below 1")
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    source, explained, cross = (cov.xx, cov.yy, cov.xy) if target == "y" else (cov.yy, cov.xx, cov.xy.mT)
    spectrum = spectrum_of(source)
    kept = spectrum.rank(default_tolerance(cov.precision, source.shape[-1]) if tol is None else tol)
    fitted = spectrum.whitener(kept).mT @ cross
    return as_value(cov, (squared_norm(fitted) / trace(explained)).clamp(0.0, 1.0))
