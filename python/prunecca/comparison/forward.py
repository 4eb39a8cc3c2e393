"""What happens with one batch of a comparison: forward passes, hooks, accumulators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..activations.hooks import capturing
from ..activations.layers import Layer, find_layers
from ..activations.trace import version_of
from ..covariance.accumulator import CovarianceAccumulator
from ..covariance.covariance import Layout, Precision
from ..covariance.view import View


class ForwardPasses:
    """The accumulators of one comparison, and what happens with a batch."""

    def __init__(
        self,
        reference: nn.Module,
        candidates: dict[str, nn.Module],
        choice: Any,
        precision: Precision,
        norms: bool,
        layout: Layout,
    ) -> None:
        self.reference, self.candidates, self.layout = reference, candidates, layout
        self.layers: list[Layer] = []
        self.accumulators: dict[str, CovarianceAccumulator] = {}
        self._choice, self._precision, self._norms = choice, precision, norms
        self._counterparts: dict[str, list[Layer]] = {}
        self._channels_last: dict[nn.Module, bool] = {}

    def models(self) -> dict[str, nn.Module]:
        return {"the reference": self.reference} | {f"candidate {n!r}": m for n, m in self.candidates.items()}

    def expect(self, layers: list[Layer]) -> None:
        self.layers = layers
        self.accumulators = {
            layer.name: CovarianceAccumulator(precision=self._precision, norms=self._norms) for layer in layers
        }

    def batch(self, number: int, inputs: Tensor) -> None:
        if not self.layers:
            self._choose(inputs)
        views: dict[str, View] = {}
        versions: dict[str, int | None] = {}

        def consume_reference(layer: Layer, x: Tensor) -> None:
            where = f"layer {layer.name!r} of the reference, batch {number}"
            view = View.of(x, "the reference", self.layout, where)
            self.accumulators[layer.name].add_reference(view)
            views[layer.name] = view.with_tensor(view.tensor.clone()) if layer.overwritten else view
            versions[layer.name] = version_of(views[layer.name].tensor)

        with capturing(self.reference, self.layers, consume_reference, "the reference"):
            self._forward(self.reference, inputs)
        for name, version in versions.items():
            if version_of(views[name].tensor) != version:
                raise ValueError(
                    f"layer {name!r} of the reference was overwritten in place in batch {number} but not in the first; "
                    "expected forward passes that do the same for every batch"
                )
        for index, (name, model) in enumerate(self.candidates.items()):
            with capturing(
                model, self._counterparts[name], self._consumer(index, name, number, views), f"candidate {name!r}"
            ):
                self._forward(model, inputs)

    def forget(self) -> None:
        """Of a first batch that is another rank's share, keep the shifts alone."""
        for accumulator in self.accumulators.values():
            accumulator.forget_rows()

    def _forward(self, model: nn.Module, inputs: Tensor) -> None:
        # On the host convolutions are fastest so, and activations lie as the rows that are accumulated.
        model(inputs.contiguous(memory_format=torch.channels_last) if self._channels_last[model] else inputs)

    def _consumer(
        self, index: int, name: str, number: int, references: dict[str, View]
    ) -> Callable[[Layer, Tensor], None]:
        def consume(layer: Layer, y: Tensor) -> None:
            reference = references[layer.name]
            shape = tuple(reference.tensor.shape)
            if positions(reference.tensor, self.layout) != positions(y, self.layout):
                raise ValueError(
                    f"layer {layer.name!r} has shape {shape} in the reference and {tuple(y.shape)} in candidate "
                    f"{name!r}; expected the same datapoints and positions, with any number of channels"
                )
            where = f"layer {layer.name!r} of candidate {name!r}, batch {number}"
            view = View.of(y, f"candidate {index}", self.layout, where)
            self.accumulators[layer.name].add_candidate(index, reference, view)

        return consume

    def _choose(self, inputs: Tensor) -> None:
        self._channels_last = {model: takes_channels_last(model, inputs[:2]) for model in self.models().values()}
        if not isinstance(self._choice, Mapping):
            found = find_layers(self.reference, inputs, self._choice)
            self._counterparts = dict.fromkeys(self.candidates, found)
        else:
            found = find_layers(self.reference, inputs, list(self._choice))
            asked = {key: find_layers(self.reference, inputs, key)[0].name for key in self._choice}
            for name, model in self.candidates.items():
                named = {asked[key]: find_layers(model, inputs, value)[0] for key, value in self._choice.items()}
                self._counterparts[name] = [replace(named[layer.name], name=layer.name) for layer in found]
        self.expect(found)


def takes_channels_last(model: nn.Module, inputs: Tensor) -> bool:
    """Whether the model runs on images whose channels are innermost in memory; one that calls view() may not."""
    if inputs.is_cuda or inputs.ndim != 4:
        return False
    try:
        model(inputs.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    return True


def positions(x: Tensor, layout: Layout) -> tuple[int, ...]:
    return tuple(x.shape[:2] if layout == "nlc" else (*x.shape[:1], *x.shape[2:]))
