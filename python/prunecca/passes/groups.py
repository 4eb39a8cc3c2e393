"""Any layers of the reference beside any layers of each candidate, each representation's own products made once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..activations.layers import Layer
from ..activations.trace import version_of
from ..covariance.view import View
from .namesakes import Pair, overwritten
from .pending import ENOUGH, Pending
from .plan import Plan, view_name
from .reading import Reading, Size
from .team import Finding, Settings, Team


@dataclass(frozen=True)
class Group:
    """Layers whose rows are the same datapoints and positions, and the pairs of them.

    Attributes:
        size: what their activations are pooled to; None where they are taken as they are.
        references: positions of layers of the reference.
        members: of each candidate, positions of its layers.
        pairs: of each candidate, positions in ``references`` and in its ``members``.
    """

    size: Size | None
    references: list[int]
    members: dict[str, list[int]]
    pairs: dict[str, list[tuple[int, int]]]

    def first(self, name: str) -> int:
        """Where the members of a candidate begin in the accumulator."""
        names = list(self.members)
        return len(self.references) + sum(len(self.members[other]) for other in names[: names.index(name)])


@dataclass(frozen=True)
class Shape:
    """What the output of a layer is, apart from its datapoints.

    Attributes:
        channels: of it.
        size: its positions, such as (height, width).
    """

    channels: int
    size: Size


def grouped(plan: Plan, shapes: Mapping[str, Sequence[Shape]], pool: bool) -> list[Group]:
    """The layers of a comparison, by the size at which pairs of them are compared.

    Args:
        plan: of the comparison.
        shapes: of the layers of the reference, by the name "", and of each candidate.
        pool: whether the larger of two sizes is pooled to the smaller.

    Raises:
        ValueError: sizes that differ.
    """
    found: dict[Size, dict[str, list[tuple[int, int]]]] = {}
    mixed: set[Size] = set()
    for name, pairs in plan.pairs.items():
        for i, j in pairs:
            mine, theirs = shapes[""][i].size, shapes[name][j].size
            if mine != theirs and not (pool and (len(mine) == len(theirs) or not (mine and theirs))):
                other = f"layer {plan.counterparts[name][j].name!r} of candidate {name!r}"
                raise _sizes_differ(f"layer {plan.layers[i].name!r} of the reference", mine, other, theirs)
            size = tuple(map(min, mine, theirs))  # none where one has no positions
            found.setdefault(size, {}).setdefault(name, []).append((i, j))
            mixed |= {size} if mine != theirs else set()
    groups = []
    for size, by_name in found.items():
        references = sorted({i for pairs in by_name.values() for i, _ in pairs})
        members = {name: sorted({j for _, j in pairs}) for name, pairs in by_name.items()}
        places = {
            name: [(references.index(i), members[name].index(j)) for i, j in own] for name, own in by_name.items()
        }
        groups.append(Group(size if size in mixed else None, references, members, places))
    return groups


def _sizes_differ(layer: str, mine: Size, other: str, theirs: Size) -> ValueError:
    shown = [" x ".join(map(str, size)) + " positions" if size else "no positions" for size in (mine, theirs)]
    return ValueError(
        f"{layer} has {shown[0]} and {other} {shown[1]}; expected the same, or resize='pool' (the larger is averaged to "
        "the size of the smaller), or points='mean' (one row for each datapoint)"
    )


class Groups:
    """One accumulator for each group of layers that can be compared with each other.

    The activations of the reference live for a batch, and those of one candidate at a time.

    Args:
        plan: of the comparison.
        shapes: as ``grouped`` takes them.
        reading: of activations.
        settings: of the teams.
        budget: bytes of products of pairs to hold at a time; those that do not fit are left for further passes over the
            data.
    """

    def __init__(
        self,
        plan: Plan,
        shapes: Mapping[str, Sequence[Shape]],
        reading: Reading,
        settings: Settings,
        budget: int,
    ) -> None:
        self._plan, self._reading = plan, reading
        self._groups = grouped(plan, shapes, reading.resize == "pool")
        self._rounds = _rounds(self._groups, shapes, budget)
        self._round = 0
        self.teams = {str(k): Team(settings) for k in range(len(self._groups))}
        self._pending = [Pending(team) for team in self.teams.values()]
        self._given: dict[int, Tensor] = {}
        self._versions: dict[int, int | None] = {}
        self._references: list[list[View]] = []

    @property
    def rounds(self) -> int:
        """Passes over the data."""
        return len(self._rounds)

    def needs(self, name: str) -> bool:
        """Whether a candidate takes part in this pass."""
        return self._round == 0 or any(pairs.get(name) for pairs in self._rounds[self._round])

    def reference(self, number: int, layer: Layer, x: Tensor) -> None:
        self._take(self._plan.layers, layer, x)

    def end_of_reference(self, number: int) -> None:
        layers = self._plan.layers
        self._check(layers, "the reference", number)
        label = f"of the reference, batch {number}"
        device = next(iter(self._given.values())).device  # the one for all, also of models that are spread over several
        self._references = [
            [
                self._reading.view(
                    layers[k],
                    self._given[k].to(device),
                    "the reference",
                    f"layer {layers[k].name!r} {label}",
                    group.size,
                )
                for k in group.references
            ]
            for group in self._groups
        ]
        self._given = {}
        for pending, views in zip(self._pending, self._references, strict=True):
            # Not where batches must stay apart, or datapoints be told from each other.
            apart = pending.team.settings.groups or pending.team.settings.chance
            if views[0].rows < ENOUGH and not apart:
                pending.add_references(views, number)
                continue
            self._flush(pending)
            pending.taking = False
            pending.team.add_references(views)

    def candidate(self, number: int, name: str, layer: Layer, y: Tensor) -> None:
        self._take(self._plan.counterparts[name], layer, y)

    def end_of_candidate(self, number: int, name: str) -> None:
        layers = self._plan.counterparts[name]
        self._check(layers, f"candidate {name!r}", number)
        label = f"of candidate {name!r}, batch {number}"
        own_name = view_name(self._plan, name)
        given, self._given = self._given, {}
        for k, group in enumerate(self._groups):
            if name not in group.members:
                continue
            references, pairs = self._references[k], self._rounds[self._round][k].get(name, [])
            device = references[0].tensor.device
            views = [
                self._reading.view(
                    layers[j], given[j].to(device), own_name, f"layer {layers[j].name!r} {label}", group.size
                )
                for j in group.members[name]
            ]
            for view in views:
                if view.positions() != references[0].positions():
                    raise ValueError(
                        f"{view.where}the output has {view.positions()} datapoints and positions; expected "
                        f"{references[0].positions()}, as layer {self._plan.layers[group.references[0]].name!r} of the reference"
                    )
            if self._pending[k].taking:
                self._pending[k].add_candidate(name, views)
                continue
            first = group.first(name)
            self.teams[str(k)].add_beside(first, references, views, [(i, first + j) for i, j in pairs])

    def end_of_batch(self) -> None:
        for pending in self._pending:
            pending.team.end_of_batch()
            if pending.rows >= ENOUGH:
                self._flush(pending)

    def forget_rows(self) -> None:
        self._flush_all()
        for team in self.teams.values():
            team.forget_rows()

    def merge_over_ranks(self, device: torch.device) -> None:
        self._flush_all()
        for team in self.teams.values():
            team.merge_over_ranks(device)

    def pairs(self, plain: bool) -> Iterator[list[Pair]]:
        """What was found of the pairs of this pass."""
        self._flush_all()
        for k, group in enumerate(self._groups):
            for (i, j), finding in self._findings(k, plain):
                name = next(name for name in reversed(group.members) if group.first(name) <= j)
                x = self._plan.layers[group.references[i]]
                y = self._plan.counterparts[name][group.members[name][j - group.first(name)]]
                yield [Pair(name, x, y, finding)]

    def _findings(self, k: int, plain: bool) -> Iterator[tuple[tuple[int, int], Finding]]:
        try:
            yield from self.teams[str(k)].findings(plain)
        except ValueError as error:
            named = self._plan.layers[self._groups[k].references[0]].name
            raise ValueError(f"layer {named!r} and those of its size: {error}") from error

    def next_round(self) -> None:
        """Take up the pairs of the next pass; their representations' own products are those of the first."""
        self._round += 1
        for k, group in enumerate(self._groups):
            pairs = self._rounds[self._round][k]
            positions = [(i, group.first(name) + j) for name, own in pairs.items() for i, j in own]
            self.teams[str(k)] = self.teams[str(k)].another_pass(positions)
        self._pending = [Pending(team) for team in self.teams.values()]

    def _flush_all(self) -> None:
        for pending in self._pending:
            self._flush(pending)

    def _flush(self, pending: Pending) -> None:
        k = self._pending.index(pending)
        group, chosen = self._groups[k], self._rounds[self._round][k]
        pairs = {}
        for name in group.members:
            first = group.first(name)
            pairs[name] = (first, [(i, first + j) for i, j in chosen.get(name, [])])
        pending.flush(pairs)

    def _take(self, layers: list[Layer], layer: Layer, x: Tensor) -> None:
        position = layers.index(layer)
        self._given[position] = x.clone() if layer.overwritten else x
        self._versions[position] = version_of(self._given[position])

    def _check(self, layers: list[Layer], label: str, number: int) -> None:
        for position, x in self._given.items():
            if version_of(x) != self._versions[position]:
                raise overwritten(layers[position].name, label, number)


def _rounds(
    groups: Sequence[Group], shapes: Mapping[str, Sequence[Shape]], budget: int
) -> list[list[dict[str, list[tuple[int, int]]]]]:
    """The pairs of each pass over the data, of each group, by candidate; a pair alone may be above the budget."""
    rounds: list[list[dict[str, list[tuple[int, int]]]]] = [[{} for _ in groups]]
    held = 0
    names = list(dict.fromkeys(name for group in groups for name in group.pairs))
    for name in names:
        for k, group in enumerate(groups):
            for i, j in group.pairs.get(name, []):
                x, y = shapes[""][group.references[i]], shapes[name][group.members[name][j]]
                size = 8 * x.channels * y.channels
                if held and held + size > budget:
                    rounds.append([{} for _ in groups])
                    held = 0
                rounds[-1][k].setdefault(name, []).append((i, j))
                held += size
    return rounds
