"""Similarity of two representations by the alignment of their kernels.

Similarities lie in [0, 1] and are 1 for a representation and itself (debiased CKA may come out slightly below 0). Where a
side has no variance at all, because every channel is dead, no similarity is defined and the value is NaN. A batched
covariance gives a tensor of its leading shape in place of a float.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..covariance.covariance import Covariance, Layout, Precision
from .operands import angle, chord, nan_if_dead, paired_covariance, squared_norm, trace


def linear_cka(
    x: Any,
    y: Any = None,
    *,
    debiased: bool = False,
    precision: Precision | None = None,
    layout: Layout = "infer",
) -> float | Tensor:
    """Centred kernel alignment with linear kernels (Kornblith et al. 2019): ``|xy|^2 / (|xx| |yy|)``, Frobenius norms.

    Invariant to orthogonal maps and to isotropic scaling. Float32 products are all it needs.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, H, W) or, by ``layout``, other array.
        y: an array with the same rows.
        debiased: with the unbiased estimator of HSIC (Song et al. 2012, equation 5; Nguyen et al. 2021) in place of the
            biased one, which approaches 1 when there are few datapoints for the channels. Exact, in the same pass, from
            the norms of a covariance accumulated with ``norms=True``. It is not clipped: unrelated representations
            scatter around 0. Where an unbiased self-similarity is not positive the value is NaN.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The similarity, in [0, 1] unless debiased; a (...) tensor of a batched covariance.

    Raises:
        ValueError: the debiased form without norms or with fewer than 4 datapoints.

    Example:
        >>> import torch
        >>> from prunecca import linear_cka
        >>> x, y = torch.randn(50, 40), torch.randn(50, 40)
        >>> round(linear_cka(x, x), 6), linear_cka(x, y) > 0.3, abs(linear_cka(x, y, debiased=True)) < 0.2
        (1.0, True, True)
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout, norms=debiased, rotated="chosen")
    if debiased:
        return nan_if_dead(cov, _debiased(cov))
    scale = (squared_norm(cov.xx) * squared_norm(cov.yy)).sqrt()
    return nan_if_dead(cov, (squared_norm(cov.xy) / scale).clamp(0.0, 1.0))


def angular_cka(
    x: Any,
    y: Any = None,
    *,
    debiased: bool = False,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> float | Tensor:
    """The angle between two linear kernels, ``arccos(CKA)``: a metric, triangle inequality and all (Williams et al. 2021).

    Invariances and accuracy are those of ``linear_cka``; where that is within e of 1, the angle is about ``sqrt(2 e)``,
    so that rounding leaves 1e-7 of an angle of 0.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        debiased: of the debiased CKA, as in ``linear_cka``, which makes it an angle up to pi and no metric.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The angle, in [0, pi / 2] unless debiased; a (...) tensor of a batched covariance.

    Raises:
        ValueError: as ``linear_cka``.

    Example:
        >>> import math, torch
        >>> from prunecca import angular_cka, linear_cka
        >>> x, y = torch.randn(50, 4), torch.randn(50, 4)
        >>> math.isclose(math.cos(angular_cka(x, y)), linear_cka(x, y), abs_tol=1e-9)
        True
    """
    return angle(linear_cka(x, y, debiased=debiased, precision=precision, layout=layout))


def cka_distance(
    x: Any,
    y: Any = None,
    *,
    debiased: bool = False,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> float | Tensor:
    """Euclidean distance of two linear kernels of unit norm, ``sqrt(2 - 2 CKA)``: the chord of ``angular_cka``.

    A metric; invariances and accuracy are those of ``angular_cka``.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        debiased: of the debiased CKA, as in ``linear_cka``; then no metric, and larger for a CKA below 0.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The distance, in [0, sqrt(2)] unless debiased; a (...) tensor of a batched covariance.

    Raises:
        ValueError: as ``linear_cka``.

    Example:
        >>> import torch
        >>> from prunecca import cka_distance
        >>> x = torch.randn(50, 4)
        >>> cka_distance(x, x.flip(1)) < 1e-3, 0 < cka_distance(x, torch.randn(50, 4)) < 2**0.5
        (True, True)
    """
    return chord(linear_cka(x, y, debiased=debiased, precision=precision, layout=layout))


def _debiased(cov: Covariance) -> Tensor:
    n = cov.count
    if cov.norms is None:
        raise ValueError(
            "the covariance has no norms; accumulate it with StreamingCovariance(norms=True) for debiased CKA"
        )
    if n < 4:
        raise ValueError(f"the covariance is of {n} datapoints; debiased CKA needs at least 4")
    fourth_x, fourth_y, mixed = cov.norms.unbind(-1)
    trace_x, trace_y = trace(cov.xx), trace(cov.yy)
    cross = _unbiased_hsic(n, squared_norm(cov.xy), mixed, trace_x * trace_y)
    own_x = _unbiased_hsic(n, squared_norm(cov.xx), fourth_x, trace_x * trace_x)
    own_y = _unbiased_hsic(n, squared_norm(cov.yy), fourth_y, trace_y * trace_y)
    defined = (own_x > 0) & (own_y > 0)
    return torch.where(defined, cross / torch.where(defined, own_x * own_y, 1.0).sqrt(), torch.nan)


def _unbiased_hsic(n: float, square: Tensor, norm: Tensor, traces: Tensor) -> Tensor:
    # With centred rows K1 = 0, so of Song et al.'s equation 5 remain |X'Y|^2 and the diagonals: sums of |x|^2 |y|^2,
    # and the product of the traces of the two Gram matrices. `square` and `traces` are of covariances.
    scale = float(n - 1) ** 2
    return (scale * square - norm * (n / (n - 2)) + scale * traces / ((n - 1) * (n - 2))) / (n * (n - 3))
