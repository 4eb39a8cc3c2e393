"""Every layer of the reference beside one layer of each candidate, consumed as the forward passes produce them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..activations.layers import Layer
from ..activations.trace import version_of
from ..covariance.view import View
from .plan import Plan, view_name
from .reading import Reading
from .team import Finding, Settings, Team


@dataclass(frozen=True)
class Pair:
    """What a comparison has found of one layer of the reference and one of a candidate.

    Attributes:
        candidate: its name.
        x: the layer of the reference.
        y: the layer of the candidate.
        finding: of their rows.
    """

    candidate: str
    x: Layer
    y: Layer
    finding: Finding


class Products(Protocol):
    """What takes the activations of a comparison, and gives the covariances of its pairs."""

    teams: dict[str, Team]  # none where no rows are kept

    @property
    def rounds(self) -> int: ...
    def needs(self, name: str) -> bool: ...
    def reference(self, number: int, layer: Layer, x: Tensor) -> None: ...
    def end_of_reference(self, number: int) -> None: ...
    def candidate(self, number: int, name: str, layer: Layer, y: Tensor) -> None: ...
    def end_of_candidate(self, number: int, name: str) -> None: ...
    def end_of_batch(self) -> None: ...
    def pairs(self, plain: bool) -> Iterator[list[Pair]]: ...
    def next_round(self) -> None: ...
    def forget_rows(self) -> None: ...
    def merge_over_ranks(self, device: torch.device) -> None: ...


class Namesakes:
    """One accumulator for each layer of the reference.

    Args:
        plan: with one partner for every layer.
        reading: of activations.
        settings: of the teams.
    """

    def __init__(self, plan: Plan, reading: Reading, settings: Settings) -> None:
        self._plan, self._reading = plan, reading
        self.teams = {layer.name: Team(settings) for layer in plan.layers}
        self._views: dict[str, View] = {}
        self._versions: dict[str, int | None] = {}

    @property
    def rounds(self) -> int:
        """Passes over the data."""
        return 1

    def needs(self, name: str) -> bool:
        """Every candidate takes part."""
        return True

    def next_round(self) -> None:
        raise RuntimeError("there is one pass only")

    def reference(self, number: int, layer: Layer, x: Tensor) -> None:
        where = f"layer {layer.name!r} of the reference, batch {number}"
        view = self._reading.view(layer, x, "the reference", where)
        self.teams[layer.name].add_references([view])
        self._views[layer.name] = view.with_tensor(view.tensor.clone()) if layer.overwritten else view
        self._versions[layer.name] = version_of(self._views[layer.name].tensor)

    def end_of_reference(self, number: int) -> None:
        for name, version in self._versions.items():
            if version_of(self._views[name].tensor) != version:
                raise overwritten(name, "the reference", number)

    def candidate(self, number: int, name: str, layer: Layer, y: Tensor) -> None:
        position = self._plan.counterparts[name].index(layer)
        own = self._plan.layers[position]
        reference = self._views[own.name]
        y = y.to(reference.tensor.device)  # of models that are spread over several
        index = list(self._plan.counterparts).index(name)
        where = f"layer {layer.name!r} of candidate {name!r}, batch {number}"
        view = self._reading.view(layer, y, view_name(self._plan, name), where)
        if reference.positions() != view.positions():
            raise ValueError(
                f"layer {own.name!r} has shape {tuple(reference.tensor.shape)} in the reference and "
                f"{tuple(y.shape)} in candidate {name!r}; expected the same datapoints and positions, with any number "
                "of channels: resize='pool' brings the larger to the size of the smaller"
            )
        self.teams[own.name].add_beside(index + 1, [reference], [view], [(0, index + 1)])

    def end_of_candidate(self, number: int, name: str) -> None:
        """Nothing is left to do."""

    def end_of_batch(self) -> None:
        for team in self.teams.values():
            team.end_of_batch()

    def forget_rows(self) -> None:
        for team in self.teams.values():
            team.forget_rows()

    def merge_over_ranks(self, device: torch.device) -> None:
        for team in self.teams.values():
            team.merge_over_ranks(device)

    def pairs(self, plain: bool) -> Iterator[list[Pair]]:
        """What was found, one layer of the reference after the other."""
        for position, layer in enumerate(self._plan.layers):
            try:
                found = [finding for _, finding in self.teams[layer.name].findings(plain)]
            except ValueError as error:
                raise ValueError(f"layer {layer.name!r}: {error}") from error
            partners = {name: layers[position] for name, layers in self._plan.counterparts.items()}
            yield [Pair(name, layer, y, finding) for (name, y), finding in zip(partners.items(), found, strict=True)]


def overwritten(layer: str, label: str, number: int) -> ValueError:
    """What to say of an activation that was written to after it was taken."""
    return ValueError(
        f"layer {layer!r} of {label} was overwritten in place in batch {number} but not in the first; "
        "expected forward passes that do the same for every batch"
    )
