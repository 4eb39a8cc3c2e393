"""What happens with one batch of a comparison: forward passes, hooks, accumulators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..activations.first_pass import ModelCall, SharedBatch
from ..activations.hooks import capturing
from ..activations.inputs import Batch
from ..activations.layers import Layer, choose_layers, counterpart
from ..activations.outputs import Output
from ..activations.trace import trace, version_of
from ..covariance.accumulator import CovarianceAccumulator
from ..covariance.covariance import Precision
from ..covariance.view import View
from .reading import Reading


class ForwardPasses:
    """The accumulators of one comparison, and what happens with a batch."""

    def __init__(
        self,
        reference: nn.Module,
        candidates: dict[str, nn.Module],
        choice: Any,
        precision: Precision,
        norms: bool,
        reading: Reading,
    ) -> None:
        self.reference, self.candidates, self.reading = reference, candidates, reading
        self.layers: list[Layer] = []
        self.layouts: dict[str, str] = {}  # of the reference
        self.accumulators: dict[str, CovarianceAccumulator] = {}
        self._choice, self._precision, self._norms = choice, precision, norms
        self._counterparts: dict[str, list[Layer]] = {}
        self._calls: dict[nn.Module, ModelCall] = {}

    def models(self) -> dict[str, nn.Module]:
        return {"the reference": self.reference} | {f"candidate {n!r}": m for n, m in self.candidates.items()}

    def expect(self, layers: list[Layer]) -> None:
        self.layers = layers
        self.layouts = {layer.name: self.reading.word(layer) for layer in layers}
        self.accumulators = {
            layer.name: CovarianceAccumulator(precision=self._precision, norms=self._norms) for layer in layers
        }

    def batch(self, number: int, given: Batch, device: torch.device, output: Output = None) -> None:
        """One forward pass of every model.

        Args:
            number: of the batch, for error messages.
            given: as the loader gave it; it stays as it is.
            device: of the comparison.
            output: which tensor of a layer's output, where it has several.
        """
        inputs = SharedBatch(given, device)
        self.reading.start(given)
        if not self.layers:
            self._choose(inputs.copy, output)
        views: dict[str, View] = {}
        versions: dict[str, int | None] = {}

        def consume_reference(layer: Layer, x: Tensor) -> None:
            where = f"layer {layer.name!r} of the reference, batch {number}"
            view = self.reading.view(layer, x, "the reference", where)
            self.accumulators[layer.name].add_reference(view)
            views[layer.name] = view.with_tensor(view.tensor.clone()) if layer.overwritten else view
            versions[layer.name] = version_of(views[layer.name].tensor)

        with capturing(self.reference, self.layers, consume_reference, "the reference", output):
            self._calls[self.reference](inputs)
        for name, version in versions.items():
            if version_of(views[name].tensor) != version:
                raise ValueError(
                    f"layer {name!r} of the reference was overwritten in place in batch {number} but not in the first; "
                    "expected forward passes that do the same for every batch"
                )
        for index, (name, model) in enumerate(self.candidates.items()):
            consume = self._consumer(index, name, number, views)
            with capturing(model, self._counterparts[name], consume, f"candidate {name!r}", output):
                self._calls[model](inputs)

    def forget(self) -> None:
        """Of a first batch that is another rank's share, keep the shifts alone."""
        for accumulator in self.accumulators.values():
            accumulator.forget_rows()

    def _consumer(
        self, index: int, name: str, number: int, references: dict[str, View]
    ) -> Callable[[Layer, Tensor], None]:
        def consume(layer: Layer, y: Tensor) -> None:
            reference = references[layer.name]
            y = y.to(reference.tensor.device)  # of models that are spread over several
            where = f"layer {layer.name!r} of candidate {name!r}, batch {number}"
            view = self.reading.view(layer, y, f"candidate {index}", where)
            if reference.positions() != view.positions():
                raise ValueError(
                    f"layer {layer.name!r} has shape {tuple(reference.tensor.shape)} in the reference and "
                    f"{tuple(y.shape)} in candidate {name!r}; expected the same datapoints and positions, with any number "
                    "of channels"
                )
            self.accumulators[layer.name].add_candidate(index, reference, view)

        return consume

    def _choose(self, inputs: Batch, output: Output) -> None:
        for label, model in self.models().items():
            if model not in self._calls:
                self._calls[model] = ModelCall(model, label, inputs)
        few = inputs.few()
        events = {name: trace(model, few, f"candidate {name!r}") for name, model in self.candidates.items()}
        own = trace(self.reference, few, "the reference")
        if not isinstance(self._choice, Mapping):
            found = choose_layers(self.reference, own, self._choice)
            self._counterparts = {
                name: [counterpart(layer, theirs) for layer in found] for name, theirs in events.items()
            }
        else:
            found = choose_layers(self.reference, own, list(self._choice))
            for name, model in self.candidates.items():
                named: dict[str, Layer] = {}
                for key, value in self._choice.items():
                    asked = choose_layers(self.reference, own, key)
                    answers = choose_layers(model, events[name], value)
                    if len(asked) != len(answers):
                        raise ValueError(
                            f"{key!r} is {len(asked)} layers of the reference but {value!r} is {len(answers)} of candidate "
                            f"{name!r}; expected as many on both sides, which are compared in order"
                        )
                    named |= {layer.name: answer for layer, answer in zip(asked, answers, strict=True)}
                self._counterparts[name] = [replace(named[layer.name], name=layer.name) for layer in found]
        for model, call in self._calls.items():
            layers = [found] if model is self.reference else []
            layers += [self._counterparts[name] for name, other in self.candidates.items() if other is model]
            for each in layers:
                call.warn_if_random(each, inputs, output)
        self.reading.learn("the reference", self.reference, found, inputs, output)
        for index, (name, model) in enumerate(self.candidates.items()):
            self.reading.learn(f"candidate {index}", model, self._counterparts[name], inputs, output)
        self.expect(found)
