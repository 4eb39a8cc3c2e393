"""Similarity up to linear maps: explained variance of a least-squares fit."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from ..covariance.covariance import Layout, Precision
from .operands import nan_if_dead, paired_covariance, squared_norm, trace
from .spectrum import default_tolerance, spectrum_of_x, spectrum_of_y


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
    maps of the predicting side and to orthogonal maps and scaling of the target. Accuracy as for ``cca``.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        target: the side that is predicted.
        tol: directions of the predicting side with an eigenvalue of ``tol`` times the largest or less are not used;
            default as for ``cca``.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        R squared, in [0, 1]; a (...) tensor of a batched covariance.

    Raises:
        ValueError: a target or a tolerance that does not exist.

    Example:
        >>> import torch
        >>> from prunecca import linear_regression
        >>> x = torch.randn(200, 6)
        >>> y = x @ torch.randn(6, 3)
        >>> round(linear_regression(x, y), 6), linear_regression(x, y, target="x") < 0.9
        (1.0, True)
    """
    if target not in ("x", "y"):
        raise ValueError(f"target is {target!r}; expected 'x' or 'y'")
    if tol is not None and not 0.0 <= tol < 1.0:
        raise ValueError(f"tol is {tol}; expected a fraction of the largest eigenvalue, at least 0 and below 1")
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    if target == "y":
        spectrum, explained, cross = spectrum_of_x(cov), cov.yy, cov.xy
    else:
        spectrum, explained, cross = spectrum_of_y(cov), cov.xx, cov.xy.mT
    kept = spectrum.rank(default_tolerance(cov.precision, spectrum.values.shape[-1]) if tol is None else tol)
    fitted = spectrum.whitener(kept).mT @ cross
    return nan_if_dead(cov, (squared_norm(fitted) / trace(explained)).clamp(0.0, 1.0))
