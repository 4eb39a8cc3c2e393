"""Similarity of two representations: functions of a ``Covariance``, or of two arrays that are streamed into one.

Values lie in [0, 1] and are 1 for a representation and itself (debiased CKA may come out slightly below 0). Where a
side has no variance at all, because every channel is dead, no similarity is defined and the value is NaN. A batched
covariance gives a tensor of its leading shape in place of a float.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .canonical import CanonicalCorrelations, cca, pwcca, svcca
from .covariance import Covariance, Layout
from .gram import Precision
from .host_threads import values_of
from .linalg import svdvals_batched
from .paired import dead_channels, number, paired_covariance
from .spectrum import default_tolerance, spectrum_of

__all__ = [
    "CanonicalCorrelations",
    "cca",
    "linear_cka",
    "linear_regression",
    "nbs",
    "procrustes",
    "pwcca",
    "svcca",
]


def linear_cka(
    x: Any,
    y: Any = None,
    *,
    debiased: bool = False,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> float | Tensor:
    """Centred kernel alignment with linear kernels (Kornblith et al. 2019): ``|xy|^2 / (|xx| |yy|)``, Frobenius norms.

    x, y: a ``Covariance`` alone, or two arrays as for ``cca``.
    debiased: with the unbiased estimator of HSIC (Song et al. 2012, equation 5; Nguyen et al. 2021) in place of the
        biased one, which approaches 1 when there are few datapoints for the channels. Exact, in the same pass, from
        the norms of a covariance accumulated with ``norms=True``. It is not clipped: unrelated representations scatter
        around 0. Where an unbiased self-similarity is not positive the value is NaN.

    Raises ``ValueError`` for the debiased form without norms or with fewer than 4 datapoints.
    Invariant to orthogonal maps and to isotropic scaling. Float32 products are all it needs.
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout, norms=debiased)
    squares = [_squares(cov.xy), _squares(cov.xx), _squares(cov.yy)]
    if not debiased:
        return _value(cov, (squares[0] / (squares[1] * squares[2]).sqrt()).clamp(0.0, 1.0))
    n = cov.count
    if cov.norms is None:
        raise ValueError(
            "the covariance has no norms; accumulate it with StreamingCovariance(norms=True) for debiased CKA"
        )
    if n < 4:
        raise ValueError(f"the covariance is of {n} datapoints; debiased CKA needs at least 4")
    fourth_x, fourth_y, mixed = cov.norms.unbind(-1)
    traces = _trace(cov.xx), _trace(cov.yy)
    cross, own_x, own_y = (
        _unbiased_hsic(n, square, norm, a * b)
        for square, norm, a, b in zip(
            squares,
            (mixed, fourth_x, fourth_y),
            (traces[0], traces[0], traces[1]),
            (traces[1], traces[0], traces[1]),
            strict=True,
        )
    )
    defined = (own_x > 0) & (own_y > 0)
    return _value(cov, torch.where(defined, cross / torch.where(defined, own_x * own_y, 1.0).sqrt(), torch.nan))


def nbs(x: Any, y: Any = None, *, precision: Precision | None = None, layout: Layout = "auto") -> float | Tensor:
    """Normalised Bures similarity (Tang et al. 2020): nuclear norm of ``xy`` over ``sqrt(tr xx * tr yy)``.

    Arguments and invariances as for ``linear_cka``. The Procrustes distance of Ding et al. 2021 between the
    representations scaled to unit norm is ``2 - 2 nbs``; the angle of Williams et al. 2021 is ``arccos(nbs)``.
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    return _value(cov, _bures(cov))


def procrustes(x: Any, y: Any = None, *, precision: Precision | None = None, layout: Layout = "auto") -> float | Tensor:
    """Variance of one side explained by the best rotation and scaling of the other (Gower 1975): ``nbs`` squared.

    It is 1 minus the disparity of a full Procrustes analysis, and the same in both directions. Arguments and
    invariances as for ``linear_cka``; ``linear_regression`` is its counterpart for any linear map.
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout)
    return _value(cov, _bures(cov).square())


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
    return _value(cov, (_squares(fitted) / _trace(explained)).clamp(0.0, 1.0))


def _bures(cov: Covariance) -> Tensor:
    # Singular values proper: through a Gram matrix the many small ones would lose half their digits and add up.
    nuclear = values_of(svdvals_batched, cov.xy).sum(-1)
    return (nuclear / (_trace(cov.xx) * _trace(cov.yy)).sqrt()).clamp(0.0, 1.0)


def _unbiased_hsic(n: int, square: Tensor, norm: Tensor, traces: Tensor) -> Tensor:
    # With centred rows K1 = 0, so of Song et al.'s equation 5 remain |X'Y|^2 and the diagonals: sums of |x|^2 |y|^2,
    # and the product of the traces of the two Gram matrices. `square` and `traces` are of covariances.
    scale = float(n - 1) ** 2
    return (scale * square - norm * (n / (n - 2)) + scale * traces / ((n - 1) * (n - 2))) / (n * (n - 3))


def _squares(matrix: Tensor) -> Tensor:
    return matrix.square().sum((-2, -1))


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _value(cov: Covariance, value: Tensor) -> float | Tensor:
    dead_x, dead_y = dead_channels(cov)
    undefined = (dead_x == cov.xx.shape[-1]) | (dead_y == cov.yy.shape[-1])
    result: float | Tensor = number(torch.where(undefined, torch.nan, value))
    return result
