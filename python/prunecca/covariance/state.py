"""The moments of a reference, of its candidates and of each pair, moved, rescaled and merged as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .moments import CrossMoments, Moments


@dataclass
class State:
    """What an accumulator has seen. Every method that changes it makes a new one and leaves this as it is.

    Attributes:
        members: the moments of the reference, then those of each candidate.
        cross: the products of the reference with each candidate.
    """

    members: list[Moments]
    cross: list[CrossMoments]

    def moved(self, shifts: Mapping[int, tuple[Tensor, bool]]) -> State:
        """The same rows about other shifts; all members must have the same rows.

        Args:
            shifts: by position of the member, its shift and whether that needs products in float64.
        """
        old = self.members
        members = [m.moved_to(*shifts[k]) if k in shifts else m for k, m in enumerate(old)]
        cross = list(self.cross)
        for k, products in enumerate(cross):
            if 0 in shifts or k + 1 in shifts:
                cross[k] = products.moved(old[0], old[k + 1], members[0].shift, members[k + 1].shift)
        return State(members, cross)

    def rescaled(self, position: int, exponent: int) -> State:
        """The same rows, those of one member multiplied by another power of two."""
        old = self.members
        members = [m.rescaled(exponent) if k == position else m for k, m in enumerate(old)]
        cross = [
            c.rescaled(old[0], old[k + 1], members[0].exponent, members[k + 1].exponent)
            if position in (0, k + 1)
            else c
            for k, c in enumerate(self.cross)
        ]
        return State(members, cross)

    def settled(self) -> State:
        """The same with shifts near the means of all rows, where the means have drifted away from them."""
        far = [k for k, m in enumerate(self.members) if m.far and m.count]
        if not far or len({m.count for m in self.members}) > 1:
            return self
        return self.moved({k: (self.members[k].settled_shift(), self.members[k].wide) for k in far})

    def plus(self, other: State) -> State:
        """The rows of both, about the shifts of the one that has more: moving rows far costs float64 digits."""
        a, b = self, other
        for k in range(len(a.members)):
            exponent = common_exponent([a.members[k].fitting_exponent(), b.members[k].fitting_exponent()])
            a, b = (s if s.members[k].exponent == exponent else s.rescaled(k, exponent) for s in (a, b))
        larger = a if a.members[0].count >= b.members[0].count else b
        shifts = {k: (m.shift, m.wide) for k, m in enumerate(larger.members)}
        a, b = a.moved(shifts), b.moved(shifts)
        for member, more in zip(a.members, b.members, strict=True):
            member.add(more)
        for products, others in zip(a.cross, b.cross, strict=True):
            products.add(others)
        return a


def common_exponent(exponents: list[int | None]) -> int:
    """The power of two for the rows of several members: that of the largest values."""
    return min((exponent for exponent in exponents if exponent is not None), default=0)
