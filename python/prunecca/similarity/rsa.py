"""Representational similarity analysis, by an identity that needs no pair of datapoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..covariance.covariance import Covariance, Layout, Precision
from ..covariance.moments import PRODUCT_ERROR
from .operands import nan_if_dead, paired_covariance, squared_norm, trace


def rsa(x: Any, y: Any = None, *, precision: Precision | None = None, layout: Layout = "auto") -> float | Tensor:
    """Correlation of the squared Euclidean distances between all pairs of datapoints (Kriegeskorte et al. 2008).

    Pearson's, over the pairs i < j, of ``|x_i - x_j|^2`` and ``|y_i - y_j|^2``: exact, in the same pass, without any of
    the N x N distances. With a_i and b_i the squared norms of the centred rows, and A and B their sums, the products of
    the distances sum up over i != j to ``2 n sum(a_i b_i) + 2 A B + 4 (n - 1)^2 |xy|^2``.

    Invariant to orthogonal maps, to isotropic scaling and to constants added to channels. Cosine distances and those of
    standardised rows are functions of each row, which a ``Covariance`` does not hold: scale the rows to unit length first,
    and half the squared distances are the cosine distances.

    Args:
        x: a ``Covariance`` that was accumulated with ``norms=True`` alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The correlation, in [-1, 1]; NaN where all distances of a side are the same, as with two datapoints; a (...)
        tensor of a batched covariance.

    Raises:
        ValueError: a covariance without norms.

    Example:
        >>> import torch
        >>> from prunecca import rsa
        >>> x, y = torch.randn(60, 8), torch.randn(60, 5)
        >>> distances = torch.stack([torch.pdist(x.double()) ** 2, torch.pdist(y.double()) ** 2])
        >>> abs(rsa(x, y) - float(torch.corrcoef(distances)[0, 1])) < 1e-6
        True
    """
    cov = paired_covariance(x, y, precision=precision, layout=layout, norms=True, rotated="chosen")
    if cov.norms is None:
        raise ValueError("the covariance has no norms; accumulate it with StreamingCovariance(norms=True) for RSA")
    fourth_x, fourth_y, mixed = cov.norms.unbind(-1)
    trace_x, trace_y = trace(cov.xx), trace(cov.yy)
    cross = _covariance_of_distances(cov, mixed, trace_x * trace_y, squared_norm(cov.xy))
    own_x = _covariance_of_distances(cov, fourth_x, trace_x.square(), squared_norm(cov.xx))
    own_y = _covariance_of_distances(cov, fourth_y, trace_y.square(), squared_norm(cov.yy))
    # What is left of equal distances is rounding of their squares.
    spread = 10.0 * PRODUCT_ERROR[cov.precision]
    defined = (own_x > spread * trace_x.square()) & (own_y > spread * trace_y.square())
    value = cross / torch.where(defined, own_x, 1.0).sqrt() / torch.where(defined, own_y, 1.0).sqrt()
    return nan_if_dead(cov, torch.where(defined, value.clamp(-1.0, 1.0), torch.nan))


def _covariance_of_distances(cov: Covariance, norms: Tensor, traces: Tensor, square: Tensor) -> Tensor:
    """Mean product of the distances of two sides, less the product of their means, which are twice the traces."""
    n = cov.count
    products = 2.0 * n * norms + float(n - 1) ** 2 * (2.0 * traces + 4.0 * square)
    return products / (float(n) * (n - 1)) - 4.0 * traces
