"""The moments of several representations and of pairs of them, moved, rescaled and merged as one."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from .accumulate import accumulate
from .moments import CrossMoments, Moments
from .view import View

_Method = TypeVar("_Method", bound=Callable[..., Any])


def outside_inference(method: _Method) -> _Method:
    """Under ``torch.inference_mode()`` the method runs outside of it: a state that is made inside cannot be added to later."""

    @functools.wraps(method)
    def outside(*arguments: Any, **options: Any) -> Any:
        if not torch.is_inference_mode_enabled():  # the context takes 4 us, the question none
            return method(*arguments, **options)
        with torch.inference_mode(False):
            return method(*arguments, **options)

    return cast(_Method, outside)


@dataclass
class State:
    """What an accumulator has seen. Every method that changes it makes a new one and leaves this as it is.

    Attributes:
        members: the moments of each representation.
        cross: the products of pairs of them, by their positions among the members.
    """

    members: list[Moments]
    cross: dict[tuple[int, int], CrossMoments]

    def moved(self, shifts: Mapping[int, tuple[Tensor, bool]]) -> State:
        """The same rows about other shifts; all members must have the same rows.

        Args:
            shifts: by position of the member, its shift and whether that needs products in float64.
        """
        old = self.members
        members = [m.moved_to(*shifts[k]) if k in shifts else m for k, m in enumerate(old)]
        cross = {
            (i, j): c.moved(old[i], old[j], members[i].shift, members[j].shift) if i in shifts or j in shifts else c
            for (i, j), c in self.cross.items()
        }
        return State(members, cross)

    def rescaled(self, position: int, exponent: int) -> State:
        """The same rows, those of one member multiplied by another power of two."""
        old = self.members
        members = [m.rescaled(exponent) if k == position else m for k, m in enumerate(old)]
        cross = {
            (i, j): c.rescaled(old[i], old[j], members[i].exponent, members[j].exponent) if position in (i, j) else c
            for (i, j), c in self.cross.items()
        }
        return State(members, cross)

    def accumulate(
        self,
        positions: Sequence[int],
        views: Sequence[View],
        pairs: Sequence[tuple[int, int]],
        counted: Sequence[int],
        exact: bool = False,
    ) -> bool:
        """Add the rows of a batch to members and to their products, all of them or none.

        Args:
            positions: of the members.
            views: the batch of each.
            pairs: positions of members whose products are added up; twice the same for its own.
            counted: positions of the members whose sums and counts grow.
            exact: take the products in float64.

        Returns:
            Whether the products were taken in float64.
        """
        place = {k: number for number, k in enumerate(positions)}
        products = [self.members[i].scatter if i == j else self.cross[i, j] for i, j in pairs]
        return accumulate(
            [self.members[k] for k in positions],
            list(views),
            [(place[i], place[j]) for i, j in pairs],
            products,
            [place[k] for k in counted],
            exact,
        )

    def copy(self) -> State:
        return State([m.copy() for m in self.members], {pair: c.copy() for pair, c in self.cross.items()})

    def settled(self) -> State:
        """The same with shifts near the means of all rows, where the means have drifted away from them."""
        far = [k for k, m in enumerate(self.members) if m.far and m.count]
        if not far or len({m.count for m in self.members}) > 1:
            return self
        return self.moved({k: (self.members[k].settled_shift(), self.members[k].wide) for k in far})

    def plus(self, other: State) -> State:
        """The rows of both, about the shifts of the one that has more: moving rows far costs float64 digits."""
        a, b = aligned([self, other])
        a = a.copy()
        for member, more in zip(a.members, b.members, strict=True):
            member.add(more)
        for pair, products in a.cross.items():
            products.add(b.cross[pair])
        return a


def aligned(states: Sequence[State]) -> list[State]:
    """States of the same representations about the same shifts: those of the one that has most rows."""
    states = list(states)
    for k in range(len(states[0].members)):
        exponent = common_exponent([state.members[k].fitting_exponent() for state in states])
        states = [s if s.members[k].exponent == exponent else s.rescaled(k, exponent) for s in states]
    most = max(states, key=lambda state: state.members[0].count)
    shifts = {k: (m.shift, m.wide) for k, m in enumerate(most.members)}
    return [state if state is most else state.moved(shifts) for state in states]


def combined(states: Sequence[State], times: Sequence[int]) -> State:
    """The rows of several states that are aligned, those of each so many times."""
    chosen = [(state, count) for state, count in zip(states, times, strict=True) if count]
    first, count = chosen[0]
    members = [m.times(count) for m in first.members]
    cross = {pair: products.times(count) for pair, products in first.cross.items()}
    for state, count in chosen[1:]:
        for member, more in zip(members, state.members, strict=True):
            member.add(more.times(count))
        for pair, products in cross.items():
            products.add(state.cross[pair].times(count))
    return State(members, cross)


def common_exponent(exponents: list[int | None]) -> int:
    """The power of two for the rows of several members: that of the largest values."""
    return min((exponent for exponent in exponents if exponent is not None), default=0)


def portions(pairs: Sequence[tuple[int, int]], neighbours: int) -> Iterator[list[tuple[int, int]]]:
    """Pairs in portions that share members, so that few tiles of rows are packed for many products.

    Args:
        pairs: positions of two members each.
        neighbours: how many members of either side are in a portion.
    """

    def block(pair: tuple[int, int]) -> tuple[int, int]:
        return pair[0] // neighbours, pair[1] // neighbours

    for _, part in itertools.groupby(sorted(pairs, key=block), key=block):
        yield list(part)


def by_width(pairs: Sequence[tuple[int, int]], members: Sequence[Moments]) -> list[list[tuple[int, int]]]:
    """Pairs that can be taken in float32, then those that cannot: one member would make a slow call of all."""
    wide = [pair for pair in pairs if any(members[k].wide for k in pair)]
    return [part for part in ([pair for pair in pairs if pair not in wide], wide) if part]
