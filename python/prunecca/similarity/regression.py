"""Similarity up to linear maps: explained variance of a least-squares fit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..covariance.covariance import Covariance, Layout, Precision
from .operands import Side, nan_if_dead, paired_covariance, python_number, squared_norm, trace, warn_of_few_rows
from .spectrum import Spectrum, correlation_spectrum, default_tolerance


class ExplainedVariance(float):
    """R squared, and how many directions of the predicting side it was fitted on.

    Attributes:
        kept: directions of the predicting side above the tolerance.
        tol: rank tolerance used.

    Example:
        >>> import torch
        >>> from prunecca import linear_regression
        >>> x = torch.randn(200, 6)
        >>> linear_regression(torch.cat([x, x[:, :1]], 1), x).kept
        6
    """

    kept: int
    tol: float

    def __new__(cls, value: float, kept: int = 0, tol: float = 0.0) -> ExplainedVariance:
        new = super().__new__(cls, value)
        new.kept, new.tol = kept, tol
        return new


def linear_regression(
    x: Any,
    y: Any = None,
    *,
    target: Side = "y",
    tol: float | None = None,
    precision: Precision | None = None,
    layout: Layout = "infer",
) -> ExplainedVariance | Tensor:
    """Fraction of the variance of ``target`` explained by a least-squares fit on the other side: R squared.

    ``tr(yx xx^+ xy) / tr yy`` for target y (Kornblith et al. 2019, table 1). Not symmetric; invariant to invertible
    maps of the predicting side and to orthogonal maps and scaling of the target. Accuracy as for ``cca``.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, H, W) or, by ``layout``, other array.
        y: an array with the same rows.
        target: the side that is predicted.
        tol: directions of the predicting side whose eigenvalue of the correlation matrix is ``tol`` times the largest or
            less are not used; default as for ``cca``.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        R squared, in [0, 1], a float that also tells ``kept``, the rank of the fit; a (...) tensor of a batched
        covariance.

    Raises:
        ValueError: a target or a tolerance that does not exist.

    Warns:
        FewRows: no more rows than directions of the predicting side and its mean, or fewer than 10 a direction.

    Example:
        >>> import torch
        >>> from prunecca import linear_regression
        >>> x = torch.randn(200, 6)
        >>> y = x @ torch.randn(6, 3)
        >>> round(linear_regression(x, y), 6), linear_regression(x, y, target="x") < 0.9
        (1.0, True)
    """
    _check(target, tol)
    cov = paired_covariance(x, y, precision=precision, layout=layout, rotated="accepted")
    spectrum, kept = _predictor(cov, target, tol)
    warn_of_few_rows("linear_regression", cov.count, kept + 1)  # the mean is fitted too
    explained, cross = (cov.yy, cov.xy) if target == "y" else (cov.xx, cov.xy.mT)
    fitted = spectrum.whitener(kept).mT @ cross
    value = nan_if_dead(cov, (squared_norm(fitted) / trace(explained)).clamp(0.0, 1.0))
    if isinstance(value, Tensor):
        return value
    return ExplainedVariance(value, python_number(kept), _tolerance(cov, spectrum, tol))


def regression_rank(cov: Covariance, *, target: Side = "y", tol: float | None = None) -> Tensor:
    """Directions of the predicting side that ``linear_regression`` uses, (...) int64."""
    _check(target, tol)
    return _predictor(cov, target, tol)[1]


def _check(target: str, tol: float | None) -> None:
    if target not in ("x", "y"):
        raise ValueError(f"target is {target!r}; expected 'x' or 'y'")
    if tol is not None and not 0.0 <= tol < 1.0:
        raise ValueError(f"tol is {tol}; expected a fraction of the largest eigenvalue, at least 0 and below 1")


def _predictor(cov: Covariance, target: Side, tol: float | None) -> tuple[Spectrum, Tensor]:
    spectrum = correlation_spectrum(cov, "x" if target == "y" else "y")
    return spectrum, spectrum.rank(_tolerance(cov, spectrum, tol))


def _tolerance(cov: Covariance, spectrum: Spectrum, tol: float | None) -> float:
    return default_tolerance(cov.precision, spectrum.values.shape[-1]) if tol is None else float(tol)
