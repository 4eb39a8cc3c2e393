"""Covariances from a state: each representation's own is made once, for all the pairs it is in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .accumulate import check_members
from .covariance import Covariance
from .memo import Memo
from .moments import CrossMoments, Moments

_SMALLEST = 2.0**-960  # sums of squares from which on float64 holds all digits of the small ones beside them


class Centred:
    """The covariances of the members of a state.

    Args:
        members: of the state.
        rescale: where a covariance leaves the range of float64, give that of a power of two times the representation:
            similarities are the same.
        own: the members that are used, by position, as an earlier pass over the same rows has them, with their own
            products; None where those are in ``members``.

    Raises:
        ValueError: fewer than two datapoints, a covariance that leaves the range of float64, or rows that are not those
            of the earlier pass.
    """

    def __init__(
        self, members: Sequence[Moments], rescale: bool = False, own: Mapping[int, Moments] | None = None
    ) -> None:
        count = members[0].count if members else 0
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 datapoints, but {count} were given")
        check_members(members)
        self._kept = list(members)
        if own is not None:
            self._kept = [_as_before(m, own[k]) if k in own else m for k, m in enumerate(members)]
        self._members = [_in_units(member, rescale) for member in self._kept]
        self._sides: dict[int, _Side] = {}

    def alone(self, position: int) -> Covariance:
        """The covariance of one member with itself."""
        return self._covariance(position, position, self._members[position].scatter)

    def pair(self, i: int, j: int, cross: CrossMoments) -> Covariance:
        """The covariance of two members.

        Args:
            i: position of the one.
            j: position of the other.
            cross: their products.
        """
        x, y = self._members[i], self._members[j]
        return self._covariance(i, j, cross.rescaled(self._kept[i], self._kept[j], x.exponent, y.exponent))

    def _side(self, position: int) -> _Side:
        if position not in self._sides:
            member = self._members[position]
            own = member.scatter.centred(member, member)
            norm = None if member.scatter.norms is None else member.scatter.fourth(member, member)
            self._sides[position] = _Side(member.mean(), own, Memo(own), norm, member.relative_error())
        return self._sides[position]

    def _covariance(self, i: int, j: int, cross: CrossMoments) -> Covariance:
        x, y = self._members[i], self._members[j]
        if x.count != y.count:
            raise ValueError(
                f"the reference has {x.count} datapoints but a candidate has {y.count}; each batch needs both"
            )
        a, b = self._side(i), self._side(j)
        norms = None
        if a.norm is not None and b.norm is not None:
            norms = torch.stack([a.norm, b.norm, a.norm if i == j else cross.fourth(x, y)])
        return Covariance(
            count=x.count,
            mean_x=a.mean,
            mean_y=b.mean,
            xx=a.covariance,
            yy=b.covariance,
            xy=a.covariance if i == j else cross.centred(x, y),
            precision="float64" if x.exact and y.exact else "float32",
            norms=norms,
            error_x=a.error,
            error_y=b.error,
            memo_x=a.memo,
            memo_y=b.memo,
        )


@dataclass(frozen=True)
class _Side:
    """What a representation is in every pair.

    Attributes:
        mean: (C,).
        covariance: with itself, (C, C).
        memo: of the covariance.
        norm: the sum over datapoints of the fourth power of the length of a row; None where it is not kept.
        error: bound of the relative error of each channel's variance, (C,).
    """

    mean: Tensor
    covariance: Tensor
    memo: Memo
    norm: Tensor | None
    error: Tensor


def _as_before(member: Moments, first: Moments) -> Moments:
    """The member of an earlier pass over the same rows, about the shift that the products of this pass are about."""
    if first.exponent != member.exponent:
        first = first.rescaled(member.exponent)
    if not torch.equal(first.shift, member.shift):
        first = first.moved_to(member.shift)
    off = (member.sum - first.sum).abs()
    # Float32 tiles in another order round sums otherwise, by far less than this part of what one deviation would add.
    if member.count != first.count or bool((off > 1e-3 * math.sqrt(first.count) * first.variance().sqrt()).any()):
        raise ValueError(
            "the loader gave other data in a later pass than in the first; expected the same every time: do not draw a "
            "random part of the data or augment it, or give a larger budget, so that one pass is enough"
        )
    return first


def _in_units(member: Moments, rescale: bool) -> Moments:
    """The member as its activations are, not multiplied by any power of two; or as it is where that does not fit."""
    if member.exponent == 0:
        return member
    plain = member.rescaled(0)
    sizes = [
        plain.scatter.products.diagonal().max(),
        *([] if plain.scatter.norms is None else plain.scatter.norms[:1]),
    ]
    if all(_SMALLEST < float(size) < math.inf for size in sizes):
        return plain
    if rescale:
        return member
    raise ValueError(
        f"the activations are about 2^{-member.exponent}, so that their covariance leaves the range of float64; "
        "scale them, or give them to a metric directly"
    )
