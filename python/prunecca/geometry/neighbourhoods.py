"""Metrics of who is near whom: the k nearest neighbours of every row in both representations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from ..covariance.covariance import Layout
from ..linalg.neighbours import nearest
from .rows import Distance, directions, paired_rows, placed

_SPARE = 8  # neighbours beyond those wanted, for ties
_TIE = 1e-9  # of a distance: closer to each other than that, two are equal
_BLOCK = 512  # rows whose products with all are taken at a time
_WORDS = "'euclidean' or 'cosine'"


def mutual_knn(
    x: Any, y: Any = None, *, k: int = 10, distance: Distance = "euclidean", layout: Layout = "infer"
) -> float:
    """Share of the k nearest neighbours that a row has in both representations, on average (Huh et al. 2024).

    ``1 / (N k) * sum_i |S_i(x) & S_i(y)|`` with ``S_i`` the k nearest other rows of row i. Unrelated representations get about
    ``k / (N - 1)``. Invariant to orthogonal maps and isotropic scaling; with Euclidean distances also to constants added to
    channels, with ``"cosine"`` also to the length of each row.

    Equal distances are not broken by the order of the rows: neighbours tied at the k-th distance share the places that are
    left, and a place held in part in both counts by the smaller part. So duplicates change nothing but their own share.

    Args:
        x: a (N, C), (N, C, H, W) or, by ``layout``, other array; positions are rows too.
        y: an array with the same rows.
        k: neighbours.
        distance: ``"euclidean"``, or ``"cosine"`` for rows that are scaled to unit length first, as the authors do.
        layout: as in ``cca``.

    Returns:
        The share, in [0, 1]; NaN where all rows of a side are equal. Time grows with ``N**2``.

    Raises:
        TypeError: a ``Covariance``, which does not hold the rows.
        ValueError: a k below 1 or not below the number of rows, another distance, rows that differ, NaN or infinity.

    Example:
        >>> import torch
        >>> from prunecca import mutual_knn
        >>> x = torch.randn(200, 5)
        >>> round(mutual_knn(x, 3 * x.flip(1)), 6), mutual_knn(x, torch.randn(200, 5)) < 0.2
        (1.0, True)
    """
    common = _common("mutual_knn", x, y, k, distance, layout)
    return math.nan if common is None else float(common.mean() / k)


def jaccard(x: Any, y: Any = None, *, k: int = 10, distance: Distance = "euclidean", layout: Layout = "infer") -> float:
    """Mean Jaccard similarity of the neighbourhoods (Klabunde et al. 2023, section 3.4).

    ``1 / N * sum_i |S_i(x) & S_i(y)| / |S_i(x) | S_i(y)|`` with ``S_i`` the k nearest other rows of row i. Invariances and ties
    are those of ``mutual_knn``.

    Args:
        x: a (N, C), (N, C, H, W) or, by ``layout``, other array; positions are rows too.
        y: an array with the same rows.
        k: neighbours.
        distance: as in ``mutual_knn``.
        layout: as in ``cca``.

    Returns:
        The similarity, in [0, 1]; NaN where all rows of a side are equal. Time grows with ``N**2``.

    Raises:
        TypeError, ValueError: as ``mutual_knn``.

    Example:
        >>> import torch
        >>> from prunecca import jaccard
        >>> x = torch.randn(200, 5)
        >>> round(jaccard(x, 3 * x.flip(1)), 6), jaccard(x, torch.randn(200, 5)) < 0.1
        (1.0, True)
    """
    common = _common("jaccard", x, y, k, distance, layout)
    return math.nan if common is None else float((common / (2 * k - common)).mean())


def cknna(x: Any, y: Any = None, *, k: int = 10, layout: Layout = "infer") -> float:
    """Centred kernel nearest-neighbour alignment (Huh et al. 2024): CKA of the pairs that are near in both representations.

    ``A(x, y) / sqrt(A(x, x) A(y, y))`` where A is the unbiased HSIC (Song et al. 2012, equation 5) of the two kernels of
    cosines, set to 0 for pairs i, j unless j is among the k nearest neighbours of i in both. So the code published with the
    paper has it, which scales rows to unit length first; the 1e-6 that it adds to the denominator is left out. With
    ``k = N - 1`` it is debiased linear CKA of the unit rows; else it is not quite symmetric, as the neighbourhoods are not. Invariant to orthogonal maps and to the length of each row.
    Ties are those of ``mutual_knn``, where a pair held in part is multiplied by its part. Rows of zeros are at a right angle
    to all others.

    Args:
        x: a (N, C), (N, C, H, W) or, by ``layout``, other array; positions are rows too.
        y: an array with the same rows.
        k: neighbours, 2 or more.
        layout: as in ``cca``.

    Returns:
        The alignment, up to about 1; near 0 for unrelated representations. NaN where all rows of a side have one direction, or
        a self-alignment is not positive. Time grows with ``N**2``.

    Raises:
        TypeError: a ``Covariance``, which does not hold the rows.
        ValueError: a k below 2 or not below the number of rows, fewer than 4 rows, rows that differ, NaN or infinity.

    Example:
        >>> import torch
        >>> from prunecca import cknna
        >>> x = torch.randn(200, 5)
        >>> round(cknna(x, 3 * x.flip(1)), 6), abs(cknna(x, torch.randn(200, 5))) < 0.2
        (1.0, True)
    """
    rows = [directions(side) for side in paired_rows(x, y, "cknna", layout)]
    count = len(rows[0])
    if count < 4:
        raise ValueError(f"{count} datapoints were given; cknna needs at least 4")
    weights = [_weights(side, k, 2) for side in rows]
    if weights[0] is None or weights[1] is None:
        return math.nan
    (wx, wy), (ux, uy) = weights, rows
    both = wx.minimum(wy).tocsr()
    kx, ky = _cosines(ux, wx), _cosines(uy, wy)
    own_x, own_y = (_unbiased_hsic(masked, masked) for masked in (kx.multiply(wx), ky.multiply(wy)))
    if own_x <= 0 or own_y <= 0:
        return math.nan
    # What is near in both is near in each, so that the cosines are known.
    return _unbiased_hsic(kx.multiply(both), ky.multiply(both)) / math.sqrt(own_x) / math.sqrt(own_y)


def _common(metric: str, x: Any, y: Any, k: int, distance: Distance, layout: Layout) -> NDArray[np.float64] | None:
    """How many neighbours each row has in both; None where a side has no neighbourhoods."""
    if distance not in ("euclidean", "cosine"):
        raise ValueError(f"distance is {distance!r}; expected {_WORDS}")
    weights = [_weights(placed(side, distance), k, 1) for side in paired_rows(x, y, metric, layout)]
    if weights[0] is None or weights[1] is None:
        return None
    return np.asarray(weights[0].minimum(weights[1]).sum(1), dtype=np.float64).ravel()


def _weights(points: Tensor, k: int, least: int) -> Any:
    """(N, N) sparse: how much of a neighbour each row is to each, k in all; None where all rows are equal.

    Equal rows are one point with so many places.
    """
    count = len(points)
    if not least <= k < count:
        raise ValueError(f"k is {k}; expected {least} or more, and fewer than the {count} rows")
    values = np.ascontiguousarray(points.cpu().numpy() + 0.0)  # + 0.0 makes -0.0 equal to 0.0
    whole = values.view(np.dtype((np.void, values.itemsize * values.shape[1]))).ravel()
    _, first, group, members = np.unique(whole, return_index=True, return_inverse=True, return_counts=True)
    if len(first) == 1:
        return None
    left = k - (members - 1.0)  # places beside the duplicates of a point
    places = _places(points[torch.from_numpy(first).to(points.device)], members, np.maximum(left, 0.0))
    duplicates = np.where(members > 1, np.minimum(k / np.maximum(members - 1.0, 1.0), 1.0), 0.0)
    belongs = sparse.csr_array((np.ones(count), (np.arange(count), group)), shape=(count, len(first)))
    weights = belongs @ (places + sparse.diags_array(duplicates)) @ belongs.T
    weights = (weights - sparse.diags_array(weights.diagonal())).tocsr()  # nobody is a neighbour of itself
    weights.eliminate_zeros()
    return weights


def _places(distinct: Tensor, members: NDArray[np.int64], places: NDArray[np.float64]) -> Any:
    """(n, n) sparse: what each of the points has of those places of another."""
    most = len(distinct) - 1
    wanted = min(most, math.ceil(places.max()) + _SPARE)
    distances, found = (part.cpu().numpy() for part in nearest(distinct, wanted))
    weights, done = _shares(distances, members[found], places)
    done |= wanted == most
    parts = [_entries(np.flatnonzero(done), found[done], weights[done])]
    # Where the last one found may be tied with others, all distances of the row are needed.
    for rows in np.split(np.flatnonzero(~done), range(_BLOCK, int((~done).sum()), _BLOCK)):
        own = distinct[torch.from_numpy(rows).to(distinct.device)]
        full = torch.cdist(own, distinct, compute_mode="donot_use_mm_for_euclid_dist")
        full[range(len(rows)), torch.from_numpy(rows).to(full.device)] = torch.inf
        distances, order = (part.cpu().numpy() for part in full.sort(1))
        weights, _ = _shares(distances[:, :most], members[order[:, :most]], places[rows])
        parts.append(_entries(rows, order[:, :most], weights))
    rows, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.csr_array((values, (rows, columns)), shape=(len(distinct),) * 2)


def _shares(
    distances: NDArray[np.float64], members: NDArray[np.int64], places: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What neighbours at ascending distances get of the places, and whether none beyond the last can be tied with them."""
    reached = members.cumsum(1)
    last = np.minimum((reached < places[:, None]).sum(1), distances.shape[1] - 1)
    farthest = np.take_along_axis(distances, last[:, None], 1)
    nearer = distances < farthest * (1.0 - _TIE)
    tied = ~nearer & (distances <= farthest * (1.0 + _TIE))
    share = (places - (members * nearer).sum(1)) / (members * tied).sum(1)
    weights = np.where(places[:, None] > 0, nearer + tied * share[:, None], 0.0)
    beyond = (reached[:, -1] >= places) & (distances[:, -1] > farthest[:, 0] * (1.0 + _TIE))
    return weights, beyond | (places == 0)


def _entries(
    rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Of a sparse matrix, those that are not 0."""
    kept = values.nonzero()
    return rows[kept[0]], columns[kept], values[kept]


def _cosines(unit: Tensor, weights: Any) -> Any:
    """The cosines of the pairs that have a weight."""
    pairs = weights.tocsr()
    values = np.empty(pairs.nnz)
    for start in range(0, len(unit), _BLOCK):
        own = unit[start : start + _BLOCK]
        ends = pairs.indptr[start : start + len(own) + 1]
        rows = np.repeat(np.arange(len(own)), np.diff(ends))
        values[ends[0] : ends[-1]] = (own @ unit.mT).cpu().numpy()[rows, pairs.indices[ends[0] : ends[-1]]]
    return sparse.csr_array((values, pairs.indices, pairs.indptr), shape=pairs.shape)


def _unbiased_hsic(k: Any, other: Any) -> float:
    """Of kernels that are 0 on the diagonal and need not be symmetric."""
    n = k.shape[0]
    crossed, total = float(k.sum(0) @ other.sum(1)), float(k.sum()) * float(other.sum())
    value: float = float(k.multiply(other.T).sum()) - 2.0 / (n - 2) * crossed + total / ((n - 1) * (n - 2))
    return value
