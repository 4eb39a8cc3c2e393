"""Similarity of single units: each with a partner of its own, by the correlations between the channels of two sides.

Channels without variance correlate with nothing and take no part. Correlations are signed unless ``absolute`` is asked
for, so that a unit and its negative do not match.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..covariance.covariance import Covariance, Layout, Precision
from .operands import Side, chord, live_deviations, of_each, paired_covariance


def hard_matching(
    x: Any,
    y: Any = None,
    *,
    side: Side = "x",
    absolute: bool = False,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> float | Tensor:
    """Mean correlation of each unit with its best partner (Li et al. 2015, semi-matching): ``mean_i max_j r_ij``.

    Several units may have one partner, so that it is not symmetric. Invariant to permutations of units, and to positive
    scales of and constants added to single units (any scales with ``absolute``), but not to rotations. Float32 products
    are all it needs.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        side: whose units look for a partner on the other.
        absolute: of ``|r_ij|``.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The mean correlation, in [-1, 1]; NaN where every unit of a side is dead; a (...) tensor of a batched covariance.

    Raises:
        ValueError: a side that does not exist.

    Example:
        >>> import torch
        >>> from prunecca import hard_matching
        >>> x = torch.randn(300, 6)
        >>> round(hard_matching(x[:, :2], x), 6), hard_matching(x[:, :2], x, side="y") < 0.9
        (1.0, True)
    """
    if side not in ("x", "y"):
        raise ValueError(f"side is {side!r}; expected 'x' or 'y'")
    cov = paired_covariance(x, y, precision=precision, layout=layout)

    def score(member: Covariance) -> float:
        found = _correlations(member, absolute)
        return float(found.amax(1 if side == "x" else 0).mean()) if found.numel() else torch.nan

    return of_each(cov, score)


def permutation_matching(
    x: Any,
    y: Any = None,
    *,
    absolute: bool = False,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> float | Tensor:
    """Mean correlation under the best one-to-one matching of units (Li et al. 2015; Williams et al. 2021).

    ``max over matchings of the mean of r_ij``, found exactly as an assignment. Where the sides have different numbers of
    units, those of the smaller all have a partner and the others are left over. Symmetric; invariances as for
    ``hard_matching``. Float32 products are all it needs. 1000 units a side take about a second.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        absolute: of ``|r_ij|``.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The mean correlation, in [-1, 1]; NaN where every unit of a side is dead; a (...) tensor of a batched covariance.

    Example:
        >>> import torch
        >>> from prunecca import permutation_matching
        >>> x = torch.randn(300, 6)
        >>> y = 3 * x[:, torch.randperm(6)] + 1
        >>> round(permutation_matching(x, y), 6), permutation_matching(x, y @ torch.randn(6, 6)) < 0.99
        (1.0, True)
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout)

    def score(member: Covariance) -> float:
        found = _correlations(member, absolute)
        return _assigned(found.cpu().numpy()) if found.numel() else torch.nan

    return of_each(cov, score)


def soft_matching(
    x: Any,
    y: Any = None,
    *,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> float | Tensor:
    """Mean correlation under the best soft matching of units (Khosla and Williams 2024): an optimal transport.

    ``max of sum over i, j of p_ij r_ij``, where all units of x give 1 / k_x and all of y take 1 / k_y: every unit is
    matched, whatever the numbers. With equal numbers it is ``permutation_matching``. Symmetric; invariances as for
    ``hard_matching``. Float32 products are all it needs. It is solved exactly, as a linear program; 512 by 400 units take
    a few seconds.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The mean correlation, in [-1, 1]; NaN where every unit of a side is dead; a (...) tensor of a batched covariance.

    Example:
        >>> import torch
        >>> from prunecca import soft_matching
        >>> x = torch.randn(300, 6)
        >>> round(soft_matching(x, x.flip(1)), 6), round(soft_matching(x, torch.cat([x, x], 1)), 6)
        (1.0, 1.0)
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout)

    def score(member: Covariance) -> float:
        found = _correlations(member, absolute=False)
        return _transported(found.cpu().numpy()) if found.numel() else torch.nan

    return of_each(cov, score)


def soft_matching_distance(
    x: Any,
    y: Any = None,
    *,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> float | Tensor:
    """Soft matching distance (Khosla and Williams 2024) of standardised units: ``sqrt(2 - 2 soft_matching)``.

    The root of the least ``sum over i, j of p_ij |x_i - y_j|^2``, where each unit is centred and scaled to unit norm: a
    metric. Invariances as for ``hard_matching``; rounding leaves 1e-7 of a distance of 0.

    Args:
        x: a ``Covariance`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The distance, in [0, 2]; NaN where every unit of a side is dead; a (...) tensor of a batched covariance.

    Example:
        >>> import torch
        >>> from prunecca import soft_matching_distance
        >>> x = torch.randn(300, 6)
        >>> soft_matching_distance(x, x.flip(1)) < 1e-3, soft_matching_distance(x, torch.randn(300, 4)) > 1
        (True, True)
    """
    return chord(soft_matching(x, y, precision=precision, layout=layout))


def _correlations(cov: Covariance, absolute: bool) -> Tensor:
    """Between the live channels of two sides, (live x, live y), in [-1, 1]."""
    a, b = live_deviations(cov, "x"), live_deviations(cov, "y")
    found = cov.xy[a > 0][:, b > 0] / a[a > 0].unsqueeze(-1) / b[b > 0]
    found = found.clamp(-1.0, 1.0)
    return found.abs() if absolute else found


def _assigned(correlations: NDArray[np.float64]) -> float:
    from scipy.optimize import linear_sum_assignment

    return float(correlations[linear_sum_assignment(correlations, maximize=True)].mean())


def _transported(correlations: NDArray[np.float64]) -> float:
    m, n = correlations.shape
    if m == n:  # the corners of these plans are the permutations
        return _assigned(correlations)
    from scipy import sparse
    from scipy.optimize import linprog

    given = sparse.kron(sparse.eye(m), np.ones((1, n)))
    taken = sparse.kron(np.ones((1, m)), sparse.eye(n))
    amounts = np.concatenate([np.full(m, 1.0 / m), np.full(n, 1.0 / n)])
    plan = linprog(-correlations.ravel(), A_eq=sparse.vstack([given, taken]).tocsr(), b_eq=amounts, method="highs-ds")
    if not plan.success:
        raise ValueError(f"no soft matching of {m} and {n} units was found: {plan.message}")
    return float(np.clip(-plan.fun, -1.0, 1.0))
