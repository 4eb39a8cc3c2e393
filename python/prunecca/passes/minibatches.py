"""CKA of all pairs of layers estimated from minibatches, whose whole outputs are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..activations.layers import Layer
from ..covariance.distributed import gather
from ..sizes.minibatch import FEWEST, MinibatchCKA, centred_grams
from .groups import Shape
from .namesakes import Pair
from .plan import Plan, view_name
from .reading import Reading
from .team import Estimate, Finding, Settings, Team


class Minibatches:
    """The estimates of a comparison with the metric ``minibatch_cka``.

    Of each batch every layer of every network gives one Gram matrix of its datapoints, as the layer is reached. A batch of
    fewer than four, such as the rest at the end of the data, takes no part: there is no unbiased estimate of it.

    Args:
        plan: of the comparison.
        shapes: of the layers of the reference, by the name "", and of each candidate.
        reading: of activations.
        settings: what would be kept beside.

    Raises:
        ValueError: what an estimate of whole outputs does not take account of.
    """

    def __init__(self, plan: Plan, shapes: Mapping[str, Sequence[Shape]], reading: Reading, settings: Settings) -> None:
        given = {"rows=": reading.has_rows, "resize=": reading.resize is not None, "chance=": settings.chance}
        given[f"points={reading.points!r}"] = reading.points not in ("position", "flatten")
        for option, is_given in given.items():
            if is_given:
                raise ValueError(
                    f"'minibatch_cka' takes all numbers of a datapoint for channels, batch by batch, and {option} was given; "
                    "expected none such, or an exact metric such as 'debiased_cka'"
                )
        self.estimates = {name: MinibatchCKA() for name in plan.counterparts}
        self.teams: dict[str, Team] = {}
        self._plan, self._shapes, self._reading = plan, shapes, reading
        self._references: dict[int, Tensor] = {}
        self._others: dict[int, Tensor] = {}

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
        if self._reading.datapoints >= FEWEST:
            position = self._plan.layers.index(layer)
            self._references[position] = self._gram(
                layer, x, "the reference", f"layer {layer.name!r} of the reference, batch {number}"
            )

    def end_of_reference(self, number: int) -> None:
        """Nothing is left to do."""

    def candidate(self, number: int, name: str, layer: Layer, y: Tensor) -> None:
        if self._reading.datapoints >= FEWEST:
            position = self._plan.counterparts[name].index(layer)
            self._others[position] = self._gram(
                layer, y, view_name(self._plan, name), f"layer {layer.name!r} of candidate {name!r}, batch {number}"
            )

    def end_of_candidate(self, number: int, name: str) -> None:
        if self._reading.datapoints < FEWEST:
            return
        device = self._references[0].device  # the others may lie elsewhere, of models that are spread over several
        left = torch.stack([self._references[k].to(device) for k in range(len(self._plan.layers))])
        right = torch.stack([self._others[k].to(device) for k in range(len(self._plan.counterparts[name]))])
        self.estimates[name].update_grams(left, right)
        self._others = {}

    def pairs(self, plain: bool) -> Iterator[list[Pair]]:
        """What was found of all pairs."""
        for name, pairs in self._plan.pairs.items():
            estimate = self.estimates[name]
            if not estimate.count:
                raise ValueError(
                    f"every batch has fewer than {FEWEST} datapoints, of which 'minibatch_cka' is not defined; expected "
                    "larger batches"
                )
            table = estimate.finalize()
            most = max(estimate.batch_sizes)
            for i, j in pairs:
                channels = (self._shapes[""][i].channels, self._shapes[name][j].channels)
                found = Estimate(float(table[i, j]), most, estimate.count, channels)
                yield [Pair(name, self._plan.layers[i], self._plan.counterparts[name][j], Finding(estimate=found))]

    def end_of_batch(self) -> None:
        """Nothing is left to do."""

    def forget_rows(self) -> None:
        self.estimates = {name: MinibatchCKA() for name in self.estimates}

    def merge_over_ranks(self, device: torch.device) -> None:
        for name in self.estimates:
            merged = MinibatchCKA()
            for estimate in gather(self.estimates[name]):
                merged.merge(estimate)
            self.estimates[name] = merged

    def _gram(self, layer: Layer, x: Tensor, name: str, where: str) -> Tensor:
        return centred_grams([self._reading.whole(layer, x, name, where)], "the output", f"{where}: ")[0]
