"""Whole outputs as the channels of one row for each datapoint: N x N matrices, filled in rounds over the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..activations.layers import Layer
from ..seeds import generator
from ..sizes.dual import MOST_DATAPOINTS
from ..sizes.rounds import FeatureRounds
from .groups import Shape
from .namesakes import Pair
from .plan import Plan, view_name
from .reading import Reading
from .team import Finding, Settings, Team

SEVERAL_RANKS = "points='flatten' compares on one process, which needs all datapoints; expected distributed='off'"


class Flattened:
    """The products of comparisons with ``points="flatten"``.

    Args:
        plan: of the comparison.
        shapes: of the layers of the reference, by the name "", and of each candidate; all of a datapoint's numbers are
            channels.
        reading: of activations.
        settings: what is kept beside the products.
        budget: bytes of activations that are held in one pass over the data.
        datapoints: how many the data have; None where that is not known beforehand.

    Raises:
        ValueError: too many datapoints, or an unknown number.
    """

    def __init__(
        self,
        plan: Plan,
        shapes: Mapping[str, Sequence[Shape]],
        reading: Reading,
        settings: Settings,
        budget: int,
        datapoints: int | None,
    ) -> None:
        if datapoints is None:
            raise ValueError(
                "points='flatten' holds a matrix of datapoints by datapoints, and the loader does not tell how many there "
                "are; expected a loader with a data set of known length, or max_datapoints="
            )
        if datapoints > MOST_DATAPOINTS:
            raise ValueError(
                f"points='flatten' holds a matrix of datapoints by datapoints, and there are {datapoints}; expected at most "
                f"{MOST_DATAPOINTS}: give max_datapoints=, or take the metric 'minibatch_cka', which estimates the same"
            )
        self.teams: dict[str, Team] = {}
        self._plan, self._reading, self._settings = plan, reading, settings
        features = [shape.channels for name in ("", *plan.counterparts) for shape in shapes[name]]
        self._first: dict[str, int] = {}
        position = len(plan.layers)
        for name, layers in plan.counterparts.items():
            self._first[name] = position
            position += len(layers)
        self._filling = FeatureRounds(features, datapoints, budget, precision=settings.precision)
        self._round, self._datapoints = 0, datapoints

    @property
    def rounds(self) -> int:
        """Passes over the data."""
        return len(self._filling.rounds)

    def needs(self, name: str) -> bool:
        """Every candidate takes part in every pass."""
        return True

    def reference(self, number: int, layer: Layer, x: Tensor) -> None:
        where = f"layer {layer.name!r} of the reference, batch {number}"
        self._filling.add(
            self._plan.layers.index(layer), self._reading.whole(layer, x, "the reference", where), where=where
        )

    def end_of_reference(self, number: int) -> None:
        """Nothing is left to do."""

    def candidate(self, number: int, name: str, layer: Layer, y: Tensor) -> None:
        where = f"layer {layer.name!r} of candidate {name!r}, batch {number}"
        position = self._first[name] + self._plan.counterparts[name].index(layer)
        self._filling.add(position, self._reading.whole(layer, y, view_name(self._plan, name), where), where=where)

    def end_of_candidate(self, number: int, name: str) -> None:
        """Nothing is left to do."""

    def pairs(self, plain: bool) -> Iterator[list[Pair]]:
        """What was found of all pairs, at the end of the last pass."""
        self._filling.end_round()
        if self._round + 1 < self.rounds:
            return
        random, dual, size = generator(0, "chance"), self._filling.accumulator, self._settings.sample
        others = torch.randperm(self._datapoints, generator=random)
        kept = torch.randperm(self._datapoints, generator=random)[:size]
        turned = torch.empty_like(others).index_copy_(0, others, others.roll(1))
        for name, pairs in self._plan.pairs.items():
            for i, j in pairs:
                k = self._first[name] + j
                cov = dual.covariance(i, k)
                chance = dual.covariance(i, k, order=turned) if self._settings.chance else None
                sample = (dual.coordinates(i)[kept], dual.coordinates(k)[kept]) if size else None
                finding = Finding(cov, cov if plain else None, chance, sample)
                yield [Pair(name, self._plan.layers[i], self._plan.counterparts[name][j], finding)]

    def next_round(self) -> None:
        """Take up the features of the next pass."""
        self._round += 1

    def end_of_batch(self) -> None:
        """Nothing is left to do."""

    def forget_rows(self) -> None:
        raise ValueError(SEVERAL_RANKS)

    def merge_over_ranks(self, device: torch.device) -> None:
        self.forget_rows()
