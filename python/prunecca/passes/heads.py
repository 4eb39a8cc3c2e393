"""The heads of an attention, each a representation of its own."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from ..activations.layers import Layer
from ..activations.wrappers import named_layers
from ..covariance.view import channel_axis
from .plan import Pairs, Plan

HeadCounts = int | Mapping[str, int] | None

_EXPECTED = "expected a number of heads, or numbers by the names or globs of layers, {'*.attention.self': 12}"


class Heads:
    """Splits the channels of chosen layers into heads of as many channels each, one after another.

    A linear layer (also Hugging Face's ``Conv1D``) mixes the heads that it is given, as the output projection of an attention
    does: of one, the input is split.

    Args:
        counts: as ``compare`` takes them.

    Raises:
        TypeError, ValueError: what is no number of heads.
    """

    def __init__(self, counts: HeadCounts) -> None:
        named: Mapping[str, Any] = counts if isinstance(counts, Mapping) else {} if counts is None else {"*": counts}
        for pattern, count in named.items():
            if isinstance(count, bool) or not isinstance(count, Integral):
                raise TypeError(f"heads is {count!r} for {pattern!r}; {_EXPECTED}")
            if count < 1:
                raise ValueError(f"heads is {count} for {pattern!r}; {_EXPECTED}")
        self._counts = {pattern: int(count) for pattern, count in named.items()}

    def split(self, plan: Plan, reference: nn.Module, candidates: Mapping[str, nn.Module], pairs: Pairs) -> Plan:
        """A plan of the heads of all layers that have any.

        Namesakes with as many heads are compared head by head in order; where the numbers differ, and in pairs that were
        asked for, each head is compared with each.

        Args:
            plan: of layers.
            reference: whose layers they are.
            candidates: and the others.
            pairs: as ``compare`` takes them.

        Raises:
            ValueError: no layer has the name of a count.
        """
        if not self._counts:
            return plan
        names = [layer.name for layers in (plan.layers, *plan.counterparts.values()) for layer in layers]
        for pattern in self._counts:
            if not fnmatch.filter(names, pattern):
                raise ValueError(f"heads are given for {pattern!r}, which no compared layer matches; {_EXPECTED}")
        own = [self._parts(layer, reference) for layer in plan.layers]
        others = {n: [self._parts(layer, candidates[n]) for layer in ys] for n, ys in plan.counterparts.items()}
        split = {}
        for name, chosen in plan.pairs.items():
            mine, theirs = _places(own), _places(others[name])
            asked = pairs.get(name) if isinstance(pairs, Mapping) else pairs
            found: list[tuple[int, int]] = []
            for x, y in chosen:
                in_order = asked in (None, "same") and len(mine[x]) == len(theirs[y])
                found += zip(mine[x], theirs[y], strict=True) if in_order else _product(mine[x], theirs[y])
            split[name] = found
        return Plan(_joined(own), {name: _joined(parts) for name, parts in others.items()}, split)

    def _parts(self, layer: Layer, model: nn.Module) -> list[Layer]:
        count = next((n for pattern, n in self._counts.items() if fnmatch.fnmatchcase(layer.name, pattern)), 0)
        if not count:
            return [layer]
        module = None if layer.function else named_layers(model).get(layer.module)
        mixes = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        return [
            replace(layer, name=f"{layer.name}.head{head}", whole=layer.name, head=head, heads=count, of_input=mixes)
            for head in range(count)
        ]


def whole_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that heads are parts of, each once, and the others as they are."""
    found: dict[str, Layer] = {}
    for layer in layers:
        found.setdefault(layer.source, replace(layer, name=layer.source, whole="", heads=0, head=0))
    return list(found.values())


def by_heads(
    layers: Sequence[Layer], consume: Callable[[Layer, Tensor], None], word: Callable[[Layer, int], str]
) -> Callable[[Layer, Tensor], None]:
    """What takes the outputs of ``whole_layers`` and gives ``consume`` those of ``layers``.

    Args:
        layers: with heads.
        consume: takes a layer and its output.
        word: the layout of a layer's output of so many dimensions.
    """
    if not any(layer.heads for layer in layers):
        return consume
    parts: dict[str, list[Layer]] = {}
    for layer in layers:
        parts.setdefault(layer.source, []).append(layer)

    def split(layer: Layer, x: Tensor) -> None:
        for part in parts[layer.name]:
            consume(part, head_of(part, x, word))

    return split


def head_of(layer: Layer, x: Tensor, word: Callable[[Layer, int], str]) -> Tensor:
    """The channels of one head; all of them where the layer is no head.

    Raises:
        ValueError: the channels are not as many for every head.
    """
    if not layer.heads:
        return x
    axis = channel_axis(tuple(x.shape), word(layer, x.ndim))
    channels = x.shape[axis]
    if channels % layer.heads:
        raise ValueError(
            f"layer {layer.source!r} has {channels} channels, which are not {layer.heads} heads of as many channels each; "
            "give the number of its heads, or leave the layer out of heads="
        )
    width = channels // layer.heads
    return x.narrow(axis, layer.head * width, width)


def _places(parts: Sequence[list[Layer]]) -> list[range]:
    """Where the parts of each layer are, one layer after another."""
    found, start = [], 0
    for own in parts:
        found.append(range(start, start + len(own)))
        start += len(own)
    return found


def _joined(parts: Sequence[list[Layer]]) -> list[Layer]:
    return [replace(layer, depth=depth) for depth, layer in enumerate(layer for own in parts for layer in own)]


def _product(mine: range, theirs: range) -> list[tuple[int, int]]:
    return [(x, y) for x in mine for y in theirs]
