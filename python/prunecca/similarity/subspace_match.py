"""Matches of groups of units by the subspaces that they span (Wang et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..covariance.covariance import Layout, Precision
from ..linalg.batched import eigh
from .operands import Side, batch_shape, live_deviations, paired_covariance
from .spectrum import default_tolerance


@dataclass(frozen=True)
class SubspaceMatch:
    """Units of two sides, each of which lies close to the span of those of the other. ``float`` of it is ``similarity``.

    Attributes:
        similarity: matched units of both sides over all units of both sides, in [0, 1]; NaN where a side has none.
        units_x: the matched channels of x, ascending.
        units_y: those of y.
        epsilon: how far from the span a unit may be, relative to its own norm.
        centred: whether the units were centred.

    Example:
        >>> import torch
        >>> from prunecca import maximum_match
        >>> x = torch.randn(300, 4)
        >>> match = maximum_match(x, torch.cat([x[:, :2] @ torch.randn(2, 2), torch.randn(300, 1)], 1))
        >>> match.units_x, match.units_y, round(match.similarity, 3)
        ((0, 1), (0, 1), 0.571)
    """

    similarity: float
    units_x: tuple[int, ...]
    units_y: tuple[int, ...]
    epsilon: float
    centred: bool

    def __float__(self) -> float:
        return self.similarity


def maximum_match(
    x: Any,
    y: Any = None,
    *,
    epsilon: float = 0.25,
    centred: bool = False,
    precision: Precision | None = None,
    layout: Layout = "auto",
) -> SubspaceMatch:
    """Maximum match (Wang et al. 2018): the most units of both sides that lie close to the span of each other's.

    A unit i with the squared norm G_ii lies ``r_i = sqrt(1 - g_i' G_yy[J,J]^+ g_i / G_ii)`` of its norm away from the span
    of the units J of the other side. Units of either side with r above ``epsilon`` are taken out until there are none: what
    is left holds every other match. The similarity is the fraction of all units that is left. As in the paper, units are
    vectors over the datapoints as they are, with their means, unless ``centred``.

    Symmetric. Invariant to permutations and scales of single units, and ``centred`` to constants added to them; not to
    rotations, although spans are. Units of norm 0, and ``centred`` those without variance, take no part. Squared
    distances are told to ``10 * error * sqrt(channels)``, as ``tol`` of ``cca``: with float32 products an ``epsilon`` below
    0.01 needs ``precision="float64"``.

    Args:
        x: a ``Covariance`` of one pair alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        epsilon: how far from the span a unit may be, relative to its own norm, at least 0 and below 1.
        centred: whether means are taken off first.
        precision: of the products when arrays are given, as in ``cca``.
        layout: as in ``cca``.

    Returns:
        The match and its similarity.

    Raises:
        ValueError: a batched covariance, or an option outside of its range.

    Example:
        >>> import torch
        >>> from prunecca import maximum_match
        >>> x = torch.randn(300, 4)
        >>> maximum_match(x, x @ torch.randn(4, 4)).similarity, maximum_match(x, torch.randn(300, 4)).similarity
        (1.0, 0.0)
    """
    units = _Units.of(x, y, epsilon, centred, precision, layout)
    return units.match(*units.largest(*units.alive))


def simple_match(
    x: Any,
    y: Any = None,
    *,
    unit: int = 0,
    side: Side = "x",
    epsilon: float = 0.25,
    centred: bool = False,
) -> SubspaceMatch:
    """A simple match (Wang et al. 2018): no more units than one unit's match needs, as small a match as holds it.

    Beginning with the maximum match, units are taken out one after the other, those of x first, wherever what is left still
    has a match with ``unit`` in it. Every match is a union of such ones. Where several are as small, the order decides
    which is found. Otherwise as ``maximum_match``; C units take as many maximum matches, so a few hundred are many.

    Args:
        x: a ``Covariance`` of one pair alone, or a (N, C), (N, C, L) or (N, C, H, W) array.
        y: an array with the same rows.
        unit: the channel that must be in the match.
        side: of that channel.
        epsilon: as in ``maximum_match``.
        centred: as in ``maximum_match``.

    Returns:
        The match; without any units, and with a similarity of 0, where the maximum match does not hold ``unit``.

    Raises:
        ValueError: as ``maximum_match``, or a unit that does not exist.

    Example:
        >>> import torch
        >>> from prunecca import simple_match
        >>> x = torch.randn(300, 4)
        >>> y = torch.cat([x[:, :2] @ torch.tensor([[1.0, 1.0], [1.0, -1.0]]), x[:, 2:]], 1)
        >>> [simple_match(x, y, unit=i).units_y for i in (0, 3)]
        [(0, 1), (3,)]
    """
    if side not in ("x", "y"):
        raise ValueError(f"side is {side!r}; expected 'x' or 'y'")
    units = _Units.of(x, y, epsilon, centred, None, "auto")
    channels = len(units.alive[0 if side == "x" else 1])
    if not 0 <= unit < channels:
        raise ValueError(f"unit is {unit}; expected a channel of {side} from 0 to {channels - 1}")
    wanted = (0 if side == "x" else 1, unit)
    found = units.largest(*units.alive)
    if not found[wanted[0]][unit]:
        return units.match(*(torch.zeros_like(chosen) for chosen in found))
    for place in ((s, int(i)) for s, chosen in enumerate(found) for i in chosen.nonzero().flatten()):
        if place == wanted or not found[place[0]][place[1]]:
            continue
        fewer = tuple(chosen.clone() for chosen in found)
        fewer[place[0]][place[1]] = False
        left = units.largest(*fewer)
        if left[wanted[0]][unit]:
            found = left
    return units.match(*found)


@dataclass(frozen=True)
class _Units:
    """Cosines between all units of both sides, x first, and which of them take part.

    Attributes:
        cosines: (Cx + Cy, Cx + Cy) float64; 0 for units that take no part.
        alive: (Cx,) and (Cy,) bool.
        epsilon: as in ``SubspaceMatch``.
        centred: as in ``SubspaceMatch``.
        tol: what rounding leaves in a squared distance.
    """

    cosines: Tensor
    alive: tuple[Tensor, Tensor]
    epsilon: float
    centred: bool
    tol: float

    @classmethod
    def of(cls, x: Any, y: Any, epsilon: float, centred: bool, precision: Precision | None, layout: Layout) -> _Units:
        if not 0.0 <= epsilon < 1.0:
            raise ValueError(f"epsilon is {epsilon}; expected a fraction of a unit's norm, at least 0 and below 1")
        cov = paired_covariance(x, y, precision=precision, layout=layout)
        if batch_shape(cov):
            raise ValueError("a batched covariance was given; expected that of one pair")
        gram = torch.cat([torch.cat([cov.xx, cov.xy], 1), torch.cat([cov.xy.mT, cov.yy], 1)])
        if centred:
            norms = torch.cat([live_deviations(cov, "x"), live_deviations(cov, "y")])
        else:
            mean = torch.cat([cov.mean_x, cov.mean_y])
            gram = gram + torch.outer(mean, mean) * (cov.count / (cov.count - 1))
            norms = gram.diagonal().sqrt()
        inverse = torch.where(norms > 0, norms, torch.inf).reciprocal()
        alive = norms > 0
        width = cov.xx.shape[-1]
        # A layer that died whole has no match, although its constant channels have a norm.
        whole = bool((live_deviations(cov, "x") > 0).any() and (live_deviations(cov, "y") > 0).any())
        alive = alive if whole else torch.zeros_like(alive)
        tol = default_tolerance(cov.precision, max(width, cov.yy.shape[-1]))
        return cls(gram * inverse.unsqueeze(-1) * inverse, (alive[:width], alive[width:]), epsilon, centred, tol)

    def largest(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The maximum match among some units of both sides, each (C,) bool."""
        x, y = x.clone(), y.clone()
        while True:
            before = int(x.sum() + y.sum())
            x[x.clone()] = self._near(x, y, first=True)
            y[y.clone()] = self._near(y, x, first=False)
            if int(x.sum() + y.sum()) == before:
                return x, y

    def match(self, x: Tensor, y: Tensor) -> SubspaceMatch:
        """What is matched, as numbers."""
        chosen = tuple(tuple(int(i) for i in side.nonzero().flatten()) for side in (x, y))
        total = int(self.alive[0].sum() + self.alive[1].sum())
        every = all(bool(side.any()) for side in self.alive)
        similarity = (len(chosen[0]) + len(chosen[1])) / total if every else float("nan")
        return SubspaceMatch(similarity, chosen[0], chosen[1], self.epsilon, self.centred)

    def _near(self, units: Tensor, others: Tensor, first: bool) -> Tensor:
        """Of the chosen units, those that lie close to the span of the others chosen, (chosen,) bool."""
        width = len(self.alive[0])
        mine, theirs = (slice(width), slice(width, None)) if first else (slice(width, None), slice(width))
        cosines = self.cosines[mine, theirs][units][:, others]
        if not cosines.numel():
            return torch.zeros(cosines.shape[0], dtype=torch.bool, device=cosines.device)
        values, vectors = eigh(self.cosines[theirs, theirs][others][:, others])
        kept = values > self.tol * values[-1]
        explained = (cosines @ vectors[:, kept] * values[kept].rsqrt()).square().sum(-1)
        return 1.0 - explained <= self.epsilon**2 + self.tol
