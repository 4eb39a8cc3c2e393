"""Alignment of Gaussian kernels, from the distances between all pairs of a sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..covariance.covariance import Layout
from .rows import centred, paired_rows


def rbf_cka(x: Any, y: Any = None, *, sigma: float = 1.0, debiased: bool = False, layout: Layout = "infer") -> float:
    """Centred kernel alignment with Gaussian kernels (Kornblith et al. 2019, section 3).

    ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` with ``k(u, v) = exp(-|u - v|^2 / (2 s^2))``, where s is ``sigma`` times the
    median of the distances between all pairs of different rows of that side. For a large ``sigma`` it becomes linear CKA.
    Invariant to orthogonal maps, to isotropic scaling and to constants added to channels.

    Args:
        x: a (N, C), (N, C, H, W) or, by ``layout``, other array; positions are rows too.
        y: an array with the same rows.
        sigma: width of the kernels in medians, as the fraction of the paper. Where more than half of all pairs are
            duplicates, the median is that of the other pairs.
        debiased: with the unbiased estimator of HSIC (Song et al. 2012, equation 5), as in ``linear_cka``.
        layout: as in ``cca``.

    Returns:
        The similarity, in [0, 1] unless debiased; NaN where all rows of a side are equal, or an unbiased self-similarity is
        not positive. Time and memory grow with ``N**2``: 1 GB for 5,000 rows.

    Raises:
        TypeError: a ``Covariance``, which does not hold the rows.
        ValueError: a sigma that is not positive, rows that differ, NaN or infinity, or the debiased form with fewer than 4
            rows.

    Example:
        >>> import torch
        >>> from prunecca import rbf_cka
        >>> x, y = torch.randn(100, 5), torch.randn(100, 5)
        >>> round(rbf_cka(x, 2 * x.flip(1)), 6), abs(rbf_cka(x, y, debiased=True)) < 0.2
        (1.0, True)
    """
    if not 0.0 < sigma < math.inf:
        raise ValueError(f"sigma is {sigma}; expected a number of medians above 0, such as 1.0")
    rows = paired_rows(x, y, "rbf_cka", layout)
    count = len(rows[0])
    if debiased and count < 4:
        raise ValueError(f"{count} datapoints were given; debiased CKA needs at least 4")
    k, other = (_kernel(centred(side), sigma) for side in rows)
    if k is None or other is None:
        return math.nan
    sums_k, sums_other = _row_sums(k, count), _row_sums(other, count)
    estimate = _unbiased if debiased else _biased
    own_x, own_y = estimate(k, k, sums_k, sums_k), estimate(other, other, sums_other, sums_other)
    if own_x <= 0 or own_y <= 0:
        return math.nan
    value = estimate(k, other, sums_k, sums_other) / math.sqrt(own_x) / math.sqrt(own_y)
    return value if debiased else min(max(value, 0.0), 1.0)


def _kernel(rows: Tensor, sigma: float) -> Tensor | None:
    """The kernel of all pairs i < j, less 1, which centring takes out again; None where all rows are equal.

    A wide kernel is almost 1 everywhere: less 1, it keeps its digits.
    """
    distances = torch.pdist(rows)
    values = distances.cpu().numpy()
    median = float(np.median(values))
    if median == 0.0:
        others = values[values > 0]
        if not len(others):
            return None
        median = float(np.median(others))
    return torch.expm1(-0.5 * (distances / (sigma * median)).square())


def _row_sums(kernel: Tensor, count: int) -> Tensor:
    """Of the symmetric matrix with these entries above a diagonal of 0."""
    sums = kernel.new_zeros(count)
    for i, row in enumerate(torch.split(kernel, list(range(count - 1, 0, -1)))):
        sums[i] += row.sum()
        sums[i + 1 :] += row
    return sums


def _biased(k: Tensor, other: Tensor, sums_k: Tensor, sums_l: Tensor) -> float:
    n = len(sums_k)
    return float(2.0 * (k @ other) - 2.0 / n * (sums_k @ sums_l) + sums_k.sum() * sums_l.sum() / n**2)


def _unbiased(k: Tensor, other: Tensor, sums_k: Tensor, sums_l: Tensor) -> float:
    n = len(sums_k)
    return float(
        2.0 * (k @ other) - 2.0 / (n - 2) * (sums_k @ sums_l) + sums_k.sum() * sums_l.sum() / ((n - 1) * (n - 2))
    )
