"""Nearest neighbours: found by products in float32, certified by an error bound, measured again in float64.

A product gives ``|y|**2 - 2 x.y``, which tells who is near fast but not exactly: between points much closer to each
other than to the mean it is all rounding. So it only proposes candidates. Their distances are computed from differences
in float64, and a bound on the error of the product says whether a nearer point could be missing among them. The rows
for which it could are searched by a product in float64, and those that even this leaves open point by point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_SPARE = 8  # candidates beyond those wanted, for rows with near ties
_BLOCK = 512  # rows of the matrix of products at a time
_DEPTH = 256  # features of a product at a time: the bound grows with them, not with all
_PAIR_BYTES = 1 << 18  # differences at a time: they stay in the cache


def nearest(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances to, and positions of, the ``count`` nearest other points of every point, nearest first.

    Args:
        points: (N, features) float32 or float64, finite.
        count: of neighbours; N - 1 where there are fewer.

    Returns:
        Float64 distances up to one common factor, a power of two, and int64 positions, both (N, count), on the device
        of the points. The two nearest are those of all distances computed in float64; so are the others, but for points
        whose distances differ by less than about 1e-13 of the distance to the mean.

    Example:
        >>> import torch
        >>> nearest(torch.tensor([[0.0], [3.0], [4.0]]), 1)[1].tolist()
        [[1], [2], [1]]
    """
    with torch.autocast(points.device.type, enabled=False):
        search = _Search(points, min(count, len(points) - 1))
        search.run()
    return search.distances, search.neighbours


@dataclass(frozen=True)
class _Proposal:
    """Candidates of some rows, nearest first, by products of ``dtype``.

    Args:
        rows: positions of the points.
        candidates: (rows, candidates) positions.
        rough: ``|y|**2 - 2 x.y`` of each candidate.
        squares: ``|x|**2`` of the rows.
        dtype: of the products.
    """

    rows: Tensor
    candidates: Tensor
    rough: Tensor
    squares: Tensor
    dtype: torch.dtype


class _Search:
    def __init__(self, points: Tensor, wanted: int) -> None:
        self.distances = torch.zeros(len(points), wanted, dtype=torch.float64, device=points.device)
        self.neighbours = torch.zeros(len(points), wanted, dtype=torch.int64, device=points.device)
        self._wanted = wanted
        self._points = points = _in_range(points)
        self._centre = points.mean(0)  # any will do, as long as it is the same for all
        self._scale = 1.0
        if points.dtype == torch.float64:  # beside a far mean, squares of the rest would vanish in float32
            spread = max(float((part - self._centre).abs().max()) for part in torch.split(points, _BLOCK))
            self._scale = math.ldexp(1.0, -math.frexp(spread)[1])

    def run(self) -> None:
        everything = torch.arange(len(self._points), device=self._points.device)
        rows = everything
        for dtype in (torch.float64,) if _products_are_rounded() else (torch.float32, torch.float64):
            left = [self._settled(proposal) for proposal in self._proposals(rows, dtype)]
            rows = torch.cat(left) if left else rows
        for k in range(len(rows)):
            row = rows[k : k + 1]
            self._measure(row, everything[everything != row].unsqueeze(0))

    def _proposals(self, rows: Tensor, dtype: torch.dtype) -> Iterator[_Proposal]:
        if not len(rows):
            return
        centred = self._centred(dtype)
        squares = torch.cat([part.square().sum(1, dtype=torch.float64) for part in torch.split(centred, _BLOCK)])
        for block in torch.split(rows, _BLOCK):
            own = centred[block]
            products = squares.to(dtype).repeat(len(block), 1)
            for left, right in zip(torch.split(own, _DEPTH, 1), torch.split(centred, _DEPTH, 1), strict=True):
                products.addmm_(left, right.mT, alpha=-2.0)
            products.scatter_(1, block.unsqueeze(1), torch.inf)
            rough, candidates = products.topk(min(self._wanted + _SPARE, len(squares) - 1), largest=False)
            yield _Proposal(block, candidates, rough.double(), squares[block], dtype)

    def _settled(self, proposal: _Proposal) -> Tensor:
        """Keep the nearest candidates of the rows; the rows for which one could be missing."""
        rows, candidates = proposal.rows, proposal.candidates
        self._measure(rows, candidates[:, : self._wanted])
        left = self._open(proposal, self._wanted)
        if bool(left.any()):
            self._measure(rows[left], candidates[left])
            left &= self._open(proposal, candidates.shape[1])
        return rows[left]

    def _open(self, proposal: _Proposal, known: int) -> Tensor:
        """Whether a point beyond the ``known`` first candidates of a row could be nearer than its neighbours."""
        if known >= len(self._points) - 1:
            return torch.zeros_like(proposal.rows, dtype=torch.bool)
        # All neighbours must be certain in float32, in float64 the two that count: points equally far from a row, as on
        # a grid, would leave more of them open for good.
        last = self._wanted if proposal.dtype == torch.float32 else min(2, self._wanted)
        farthest = self.distances[proposal.rows, last - 1] * self._scale
        nearest_left = proposal.rough[:, min(known, proposal.rough.shape[1] - 1)]
        return nearest_left <= farthest.square() - proposal.squares + self._error(proposal, farthest)

    def _error(self, proposal: _Proposal, farthest: Tensor) -> Tensor:
        """What rounding takes at most from ``|y|**2 - 2 x.y`` of a point y within ``farthest`` of x.

        Such a point lies within ``reach`` of the centre. The centred points and their squares are rounded to ``unit``, and
        so are ``depth`` products and the sum over the parts (Higham 2002, section 3.1).
        """
        unit, tiny = torch.finfo(proposal.dtype).eps / 2, torch.finfo(proposal.dtype).tiny
        features = self._points.shape[1]
        depth, parts = min(_DEPTH, features), -(-features // _DEPTH)
        own = proposal.squares.sqrt()
        reach = own + farthest
        error = unit * reach * ((2 * depth + 4 * parts + 8) * own + (2 * parts + 8) * reach) + 8 * features * tiny
        if proposal.dtype == torch.float64:  # in which the squares are summed too
            error += features * unit * reach.square()
        return error

    def _measure(self, rows: Tensor, candidates: Tensor) -> None:
        """Keep the nearest candidates by distances from differences in float64; of equally near ones the first."""
        candidates = candidates.sort(1).values
        count, features = candidates.shape[1], self._points.shape[1]
        size = max(1, _PAIR_BYTES // max(1, 8 * count * features))
        narrow = self._points.new_empty(size * count, features)  # kept: fresh memory would cost more than the sums
        wide = narrow.new_empty(size, count, features, dtype=torch.float64)
        parts = []
        for own, others in zip(torch.split(rows, size), torch.split(candidates, size), strict=True):
            torch.index_select(self._points, 0, others.flatten(), out=narrow[: others.numel()])
            differences = wide[: len(own)].copy_(narrow[: others.numel()].view_as(wide[: len(own)]))
            differences -= self._points[own].unsqueeze(1)
            parts.append(torch.linalg.vector_norm(differences, dim=2))
        distances, order = torch.cat(parts).sort(dim=1, stable=True)
        self.distances[rows] = distances[:, : self._wanted]
        self.neighbours[rows] = candidates.gather(1, order)[:, : self._wanted]

    def _centred(self, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(self._points.dtype, dtype)
        if wide == dtype:
            return (self._points.to(dtype) - self._centre.to(dtype)) * self._scale
        return torch.cat([((p - self._centre) * self._scale).to(dtype) for p in torch.split(self._points, _BLOCK)])


def _in_range(points: Tensor) -> Tensor:
    """The points, scaled by a power of two if their squares would not fit their dtype or lose digits in it."""
    exponent = math.frexp(float(points.abs().max()))[1]
    if -10 < exponent < 40:
        return points
    return points * math.ldexp(1.0, -(exponent // 2)) * math.ldexp(1.0, exponent // 2 - exponent)


def _products_are_rounded() -> bool:
    """Whether float32 products may be computed with fewer digits (TF32, bfloat16)."""
    backends: Any = torch.backends
    settings = (backends, backends.cuda.matmul, backends.mkldnn.matmul)
    return any(setting.fp32_precision not in ("none", "ieee") for setting in settings)
