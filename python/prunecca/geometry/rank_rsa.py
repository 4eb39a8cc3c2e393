"""Representational similarity analysis by ranks, from the distances between all pairs of a sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..covariance.covariance import Layout
from .rows import Distance, paired_rows, placed

_ROUNDING = 1 << 12  # units in the last place, 1e-12 of a distance


def spearman_rsa(x: Any, y: Any = None, *, distance: Distance = "euclidean", layout: Layout = "infer") -> float:
    """Spearman's correlation of the distances between all pairs of rows (Kriegeskorte et al. 2008).

    Pearson's correlation of the ranks of ``d(x_i, x_j)`` and ``d(y_i, y_j)`` over all i < j; equal distances, such as those of
    duplicates, share the mean of their ranks; so do those that differ by 1e-12 or less. Invariant to whatever keeps the order of the distances: orthogonal maps and
    isotropic scaling; with Euclidean distances also to constants added to channels, with ``"cosine"`` to the length of
    each row, with ``"correlation"`` also to a constant added to a row.

    Args:
        x: a (N, C), (N, C, H, W) or, by ``layout``, other array; positions are rows too.
        y: an array with the same rows.
        distance: ``"euclidean"``; ``"cosine"``, one minus the cosine of two rows, where rows of zeros are at a right angle
            to all others; or ``"correlation"``, the same of rows less their means.
        layout: as in ``cca``.

    Returns:
        The correlation, in [-1, 1]; NaN where all distances of a side are the same. Time and memory grow with ``N**2``:
        1 GB for 5,000 rows.

    Raises:
        TypeError: a ``Covariance``, which does not hold the rows.
        ValueError: another distance, rows that differ, NaN or infinity.

    Example:
        >>> import torch
        >>> from prunecca import spearman_rsa
        >>> x = torch.randn(50, 6)
        >>> round(spearman_rsa(x, x.flip(1)), 6), abs(spearman_rsa(x, torch.randn(50, 6), distance="cosine")) < 0.4
        (1.0, True)
    """
    ranks = [_ranks(placed(side, distance)) for side in paired_rows(x, y, "spearman_rsa", layout)]
    norms = [float(side.norm()) for side in ranks]
    if not all(norms):
        return math.nan
    return min(max(float(ranks[0] @ ranks[1]) / norms[0] / norms[1], -1.0), 1.0)


def _ranks(points: Tensor) -> Tensor:
    """Of all distances, less their mean; equal ones share the mean of their ranks."""
    # Positive numbers are in the order of their bits. Without the last of them, what rounding has parted is equal.
    bits = (torch.pdist(points).view(torch.int64) + _ROUNDING // 2).div(_ROUNDING, rounding_mode="floor")
    _, which, counts = torch.unique(bits, return_inverse=True, return_counts=True)
    ranks: Tensor = (counts.cumsum(0) - (counts - 1) / 2.0).double()
    return ranks[which] - (len(which) + 1) / 2.0
