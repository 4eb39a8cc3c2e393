"""What happens with one batch of a comparison: forward passes and hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..activations.first_pass import ModelCall, SharedBatch
from ..activations.hooks import capturing
from ..activations.inputs import Batch
from ..activations.layers import Layer
from ..activations.outputs import Output
from ..activations.trace import trace
from .flattened import Flattened
from .groups import Groups, Shape
from .heads import Heads, by_heads, head_of, whole_layers
from .minibatches import Minibatches
from .namesakes import Namesakes, Products
from .plan import Layers, Pairs, Plan, Planner, view_name
from .reading import Reading
from .team import Settings


@dataclass(frozen=True)
class Setup:
    """What a comparison was asked for, and what its first batch showed; the same on every rank.

    Attributes:
        plan: which layers, and pairs of them.
        shapes: of the outputs of the reference's layers, by the name "", and of each candidate's.
        layouts: of the layers of the reference.
    """

    plan: Plan
    shapes: dict[str, list[Shape]]
    layouts: list[str]


@dataclass(frozen=True)
class Request:
    """What a comparison is asked for.

    Attributes:
        layers: as ``compare`` takes them, and so the other attributes.
        pairs: of layers.
        reading: layouts and rows.
        output: which tensor of a layer's output, where it has several.
        settings: of what takes the batches.
        budget: bytes of products of pairs to hold at a time.
        minibatches: the metric is estimated from batches.
        heads: of layers that are split into them.
    """

    layers: Layers
    pairs: Pairs
    reading: Reading
    output: Output
    settings: Settings
    budget: int
    minibatches: bool
    heads: Heads


class ForwardPasses:
    """The products of one comparison, and what happens with a batch."""

    def __init__(self, reference: nn.Module, candidates: dict[str, nn.Module], request: Request) -> None:
        self.reference, self.candidates = reference, candidates
        self.setup: Setup | None = None
        self.datapoints: int | None = None  # where that is known beforehand
        self.products: Products = Namesakes(Plan([], {}, {}), request.reading, request.settings)
        self._request = request
        self._calls: dict[nn.Module, ModelCall] = {}
        self._round = 0

    def models(self) -> dict[str, nn.Module]:
        return {"the reference": self.reference} | {f"candidate {n!r}": m for n, m in self.candidates.items()}

    @property
    def points(self) -> str:
        """What a row is, as the table has it."""
        return "flatten" if self._request.minibatches else self._request.reading.points

    def expect(self, setup: Setup) -> None:
        """Begin with what the first batch showed, here or on another rank."""
        request = self._request
        settings = request.settings
        self.setup = setup
        plan, shapes, reading = setup.plan, setup.shapes, request.reading
        if request.minibatches:
            self.products = Minibatches(plan, shapes, reading, settings)
        elif reading.points == "flatten":
            self.products = Flattened(plan, shapes, reading, settings, request.budget, self.datapoints)
        elif plan.one_to_one and reading.resize is None:
            self.products = Namesakes(plan, reading, settings)
        else:
            self.products = Groups(plan, shapes, reading, settings, request.budget)

    def batch(self, number: int, given: Batch, device: torch.device) -> None:
        """One forward pass of every model.

        Args:
            number: of the batch, for error messages.
            given: as the loader gave it; it stays as it is.
            device: of the comparison.
        """
        inputs = SharedBatch(given, device)
        self._request.reading.start(given)
        setup = self.setup
        if setup is None:
            setup = self._look(inputs.copy)
            self.expect(setup)
        products, plan, output = self.products, setup.plan, self._request.output
        consume = self._by_heads(plan.layers, partial(products.reference, number))
        with capturing(self.reference, whole_layers(plan.layers), consume, "the reference", output):
            self._calls[self.reference](inputs)
        products.end_of_reference(number)
        for name, model in self.candidates.items():
            if not products.needs(name):
                continue
            layers = plan.counterparts[name]
            consume = self._by_heads(layers, partial(products.candidate, number, name))
            with capturing(model, whole_layers(layers), consume, f"candidate {name!r}", output):
                self._calls[model](inputs)
            products.end_of_candidate(number, name)
        products.end_of_batch()

    def forget(self) -> None:
        """Of a first batch that is another rank's share, keep the shifts alone."""
        self.products.forget_rows()

    def another_round(self) -> bool:
        """Whether there are pairs left for another pass over the data; it is then prepared."""
        self._round += 1
        if self._round == self.products.rounds:
            return False
        self.products.next_round()
        return True

    def _by_heads(
        self, layers: list[Layer], consume: Callable[[Layer, Tensor], None]
    ) -> Callable[[Layer, Tensor], None]:
        return by_heads(layers, consume, self._request.reading.word)

    def _look(self, inputs: Batch) -> Setup:
        for label, model in self.models().items():
            if model not in self._calls:
                self._calls[model] = ModelCall(model, label, inputs)
        few = inputs.few()
        events = {name: (model, trace(model, few, f"candidate {name!r}")) for name, model in self.candidates.items()}
        own = (self.reference, trace(self.reference, few, "the reference"))
        plan = Planner(own, events, self._request.layers, self._request.pairs).plan()
        plan = self._request.heads.split(plan, self.reference, self.candidates, self._request.pairs)
        reading, output = self._request.reading, self._request.output
        members = {"": (self.reference, "the reference", plan.layers)}
        members |= {n: (m, view_name(plan, n), plan.counterparts[n]) for n, m in self.candidates.items()}
        # These first: they say what is wrong with the layers of a model by its name.
        compared = [layer for _, _, layers in members.values() for layer in layers]
        reading.check_globs(compared, {event.name for _, trail in (own, *events.values()) for event in trail})
        whole = {n: whole_layers(layers) for n, (_, _, layers) in members.items()}
        outputs = {n: self._calls[m].outputs(whole[n], inputs, output) for n, (m, _, _) in members.items()}
        for n, (model, name, _) in members.items():
            reading.learn(name, model, whole[n], inputs, output)
        count = inputs.few().count
        shapes = {n: self._shapes(name, layers, outputs[n], count) for n, (_, name, layers) in members.items()}
        return Setup(plan, shapes, [reading.word(layer) for layer in plan.layers])

    def _shapes(self, name: str, layers: list[Layer], outputs: dict[str, Tensor], count: int) -> list[Shape]:
        reading, found = self._request.reading, []
        for layer in layers:
            given = head_of(layer, outputs[layer.source], reading.word)
            x, word = reading.datapoints_first(layer, given, name, count)
            whole = self._request.minibatches or reading.points == "flatten"
            channels = x.numel() // len(x) if whole else x.shape[word.index("c")]
            found.append(Shape(channels, reading.size(layer, given, name, count)))
        return found
