"""Which layers of a comparison are held against which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..activations.layers import Layer, LayerChoice, choose_layers, counterpart
from ..activations.trace import Event

Pairs = str | Iterable[tuple[Any, Any]] | Mapping[str, Any] | None
Layers = Iterable[Any] | LayerChoice | Mapping[Any, Any] | None

_PAIRS = "expected 'same', 'all', a list of (layer of the reference, layer of the candidate), or these by candidate"


@dataclass(frozen=True)
class Plan:
    """What is compared with what.

    Attributes:
        layers: of the reference, in order of execution.
        counterparts: of each candidate, by its name.
        pairs: of each candidate, positions among ``layers`` and among its counterparts.
    """

    layers: list[Layer]
    counterparts: dict[str, list[Layer]]
    pairs: dict[str, list[tuple[int, int]]]

    @property
    def one_to_one(self) -> bool:
        """Whether every layer of the reference has one partner in every candidate, at the same position."""
        diagonal = [(k, k) for k in range(len(self.layers))]
        return all(
            pairs == diagonal and len(self.counterparts[name]) == len(diagonal) for name, pairs in self.pairs.items()
        )


def view_name(plan: Plan, candidate: str) -> str:
    """What error messages about numbers call the activations of a candidate."""
    return f"candidate {list(plan.counterparts).index(candidate)}"


class Planner:
    """Chooses layers and pairs by what one forward pass of each model shows.

    Args:
        reference: the model and the events of its forward pass.
        candidates: the same of each candidate.
        layers: as ``compare`` takes them.
        pairs: as ``compare`` takes them.
    """

    def __init__(
        self,
        reference: tuple[nn.Module, list[Event]],
        candidates: dict[str, tuple[nn.Module, list[Event]]],
        layers: Layers,
        pairs: Pairs = None,
    ) -> None:
        self._reference, self._candidates, self._layers, self._pairs = reference, candidates, layers, pairs

    def plan(self) -> Plan:
        """The layers of every model, each once, and the pairs of them.

        Raises:
            ValueError: layers that do not exist, as many on one side as there are not on the other, or candidates that do
                not exist.
            TypeError: what is no choice of pairs.
        """
        found = {name: _once(self._of(name)) for name in self._candidates}
        names = {x.name for pairs in found.values() for x, _ in pairs}
        everything = choose_layers(*self._reference, ["*"])
        layers = _in_turn([layer for layer in everything if layer.name in names], everything)
        places = {layer.name: k for k, layer in enumerate(layers)}
        counterparts, positions = {}, {}
        for name, pairs in found.items():
            pairs = sorted(pairs, key=lambda pair: places[pair[0].name])
            own = {y.name: y for _, y in pairs}
            counterparts[name] = _in_turn(list(own.values()), choose_layers(*self._candidates[name], ["*"]))
            order = {y: k for k, y in enumerate(own)}
            positions[name] = [(places[x.name], order[y.name]) for x, y in pairs]
        return Plan(layers, counterparts, positions)

    def _of(self, name: str) -> list[tuple[Layer, Layer]]:
        """The pairs of one candidate, each once."""
        pairs = self._pairs
        if isinstance(pairs, Mapping):
            strange = [other for other in pairs if other not in self._candidates]
            if strange:
                known = ", ".join(map(repr, self._candidates))
                raise ValueError(f"pairs are given for {strange[0]!r}; expected names of candidates: {known}")
            pairs = pairs.get(name, "same")
        if pairs is None or pairs == "same":
            return self._same(name)
        if pairs == "all":
            choice = self._choice(name)
            mine, theirs = (list(choice), list(choice.values())) if isinstance(choice, Mapping) else (choice, choice)
            return self._product(name, mine, theirs)
        if isinstance(pairs, str) or not isinstance(pairs, Iterable):
            raise TypeError(f"pairs is {pairs!r}; {_PAIRS}")
        found: list[tuple[Layer, Layer]] = []
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"pairs holds {pair!r}; {_PAIRS}")
            found += self._product(name, *pair)
        if not found:
            raise ValueError(f"there are no pairs for candidate {name!r}; {_PAIRS}")
        return found

    def _choice(self, name: str) -> Layers:
        """The choice of layers for one candidate: mappings may be given by candidate."""
        layers = self._layers
        if isinstance(layers, Mapping) and layers and all(isinstance(value, Mapping) for value in layers.values()):
            if name not in layers:
                raise ValueError(f"layers are given by candidate, but not for {name!r}; expected a mapping for each")
            return dict(layers[name])
        if isinstance(layers, list | tuple) and layers and all(isinstance(x, tuple | list) for x in layers):
            for pair in layers:
                if len(pair) != 2:
                    raise ValueError(
                        f"layers holds {pair!r}; expected pairs, a layer of the reference and its counterpart"
                    )
            merged: dict[Any, Any] = {}
            for x, y in layers:
                merged[x] = [*merged[x], y] if x in merged else [y]
            return {x: y[0] if len(y) == 1 else y for x, y in merged.items()}
        return layers

    def _same(self, name: str) -> list[tuple[Layer, Layer]]:
        choice = self._choice(name)
        _, events = self._candidates[name]
        if not isinstance(choice, Mapping):
            return [(layer, counterpart(layer, events)) for layer in choose_layers(*self._reference, choice)]
        found: list[tuple[Layer, Layer]] = []
        for key, value in choice.items():
            asked = choose_layers(*self._reference, key)
            if isinstance(value, list | tuple) and len(asked) == 1:
                found += self._product(name, key, value)
                continue
            answers = choose_layers(*self._candidates[name], value)
            if len(asked) != len(answers):
                raise ValueError(
                    f"{key!r} is {len(asked)} layers of the reference but {value!r} is {len(answers)} of candidate "
                    f"{name!r}; expected as many on both sides, which are compared in order"
                )
            found += zip(asked, answers, strict=True)
        return found

    def _product(self, name: str, mine: Any, theirs: Any) -> list[tuple[Layer, Layer]]:
        own, others = choose_layers(*self._reference, mine), choose_layers(*self._candidates[name], theirs)
        return [(x, y) for x in own for y in others]


def _once(pairs: list[tuple[Layer, Layer]]) -> list[tuple[Layer, Layer]]:
    return list({(x.name, y.name): (x, y) for x, y in pairs}.values())


def _in_turn(layers: list[Layer], everything: list[Layer]) -> list[Layer]:
    """Layers with their positions among each other in a forward pass; one that does not run keeps its own."""
    turns = {layer.name: turn for turn, layer in enumerate(everything)}
    ranks = {
        name: rank
        for rank, name in enumerate(sorted((x.name for x in layers if x.name in turns), key=turns.__getitem__))
    }
    return [replace(layer, depth=ranks.get(layer.name, layer.depth)) for layer in layers]
