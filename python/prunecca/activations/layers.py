"""Which layers of a model represent it, and their activations as a forward pass produces them."""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from .functional import Kind
from .inputs import Batch, Forward
from .trace import Event, trace
from .wrappers import bare, named_layers, unwrapped

LayerChoice = str | type[nn.Module]


@dataclass(frozen=True)
class Layer:
    """One output of one module in a forward pass.

    Attributes:
        name: as in tables: the module's, or ``"module#2"`` for the second call of a module that runs several times. Of a
            function that the model calls itself, such as ``F.relu``, that of the module before it and its own:
            ``"conv1.relu"``.
        module: the name without the number.
        call: which of its calls, from 1.
        calls: how many it makes in one forward pass.
        kind: ``"conv"``, ``"pool"`` or ``"fc"``: the last of these that had run when the output was there (``"fc"`` if none
            had).
        depth: position among the chosen layers in order of execution, from 0.
        overwritten: a later operation writes to the output in place, so it must be copied to outlive the forward pass.
        function: of a function, its own name; empty for a module.
        ordinal: of a function, which of its calls in a forward pass it is, from 1.
        layout: which axis of the output holds the channels, such as ``"nchw"`` or ``"nlc"``, as the forward pass tells;
            None where it does not.
        ndim: dimensions of the output.
        whole: of a head of an attention, the name of the layer that it is a part of; empty for a layer.
        heads, head: of a head, how many there are, and which it is, from 0.
        of_input: it is a part of what the module is given, in the place of its output.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
        >>> pc.find_layers(model, torch.randn(2, 4))[0].name
        '1'
    """

    name: str
    module: str
    call: int
    calls: int
    kind: Kind
    depth: int
    overwritten: bool = False
    function: str = ""
    ordinal: int = 0
    layout: str | None = None
    ndim: int = 0
    whole: str = ""
    heads: int = 0
    head: int = 0
    of_input: bool = False

    @property
    def source(self) -> str:
        """The name of the layer that this is, or is a part of."""
        return self.whole or self.name


def find_layers(
    model: nn.Module,
    inputs: Any,
    layers: Iterable[LayerChoice] | LayerChoice | None = None,
    *,
    forward: Forward | None = None,
) -> list[Layer]:
    """The chosen layers of a model in order of execution, found by one forward pass of two of the inputs.

    Args:
        model: in eval mode.
        inputs: one batch of at least one datapoint, in any form that ``compare`` takes.
        layers: module names, names of calls (``"layer1.0.relu#2"``), globs (``"features.*"``) and module types, mixed.
            None takes the model's attribute ``representation_layers`` (names) if it has one, and otherwise: the activation
            after each convolution and each hidden linear layer (through normalisation and, for convolutions, residual
            sums), each pooling and each recurrent layer; modules and functions alike.
        forward: as in ``compare``.

    Returns:
        The layers, by depth.

    Raises:
        ValueError: a name that does not exist, a named layer that does not run, one that runs several times and is named
            without ``#``, or nothing was found.

    Example:
        >>> import torch, prunecca as pc
        >>> model = pc.models.build("digits4").eval()
        >>> [layer.name for layer in pc.find_layers(model, torch.randn(2, 3, 32, 32), ["conv1", "fc?"])]
        ['conv1', 'fc1']
    """
    model = unwrapped(model, "the model")
    return choose_layers(model, trace(model, Batch.of(inputs, forward).few()), layers)


def choose_layers(
    model: nn.Module, events: list[Event], layers: Iterable[LayerChoice] | LayerChoice | None = None
) -> list[Layer]:
    """The chosen layers among the events of a forward pass; as ``find_layers``."""
    if layers is None:
        layers = getattr(model, "representation_layers", None)
    if layers is None:
        modules = named_layers(model)
        chosen = {event for event in events if event.representative or isinstance(modules.get(event.name), nn.RNNBase)}
        if not chosen:
            raise ValueError(
                f"no convolutions, poolings, hidden linear or recurrent layers run in {type(model).__name__}; expected a choice "
                "of layers"
            )
    else:
        choices = [layers] if isinstance(layers, str | type) else list(layers)
        chosen = {event for choice in choices for event in _match(model, events, choice)}
        if not chosen:
            raise ValueError(
                "the choice of layers is empty; expected names, globs or module types, or None for the default"
            )
    totals = Counter(event.name for event in events)
    ordered = [event for event in events if event in chosen]
    return [
        Layer(
            name=_numbered(event, totals),
            module=event.name,
            call=event.call,
            calls=totals[event.name],
            kind=event.kind or "fc",
            depth=depth,
            overwritten=event.overwritten,
            function=event.function,
            ordinal=event.ordinal,
            layout=event.layout,
            ndim=event.ndim,
        )
        for depth, event in enumerate(ordered)
    ]


def counterpart(layer: Layer, events: list[Event]) -> Layer:
    """The same layer of another model, as that model's forward pass has it; unchanged where it has none of that name."""
    event = next((event for event in events if (event.name, event.call) == (layer.module, layer.call)), None)
    if event is None:
        return layer
    return replace(
        layer,
        overwritten=event.overwritten,
        function=event.function,
        ordinal=event.ordinal,
        layout=event.layout,
        ndim=event.ndim,
    )


def _numbered(event: Event, totals: Counter[str]) -> str:
    """The name of a layer; of one that runs several times with the number of the call."""
    return event.name if totals[event.name] == 1 else f"{event.name}#{event.call}"


def _match(model: nn.Module, events: list[Event], choice: Any) -> list[Event]:
    modules = named_layers(model)
    if isinstance(choice, type) and issubclass(choice, nn.Module):
        found = [event for event in events if isinstance(modules.get(event.name), choice)]
        if not found:
            raise ValueError(f"no module of type {choice.__name__} runs in {type(model).__name__}")
        return found
    if not isinstance(choice, str):
        raise TypeError(f"layer {choice!r} is a {type(choice).__name__}; expected a name, a glob or a module type")
    if choice.partition("#")[0] not in (modules.keys() | {event.name for event in events}):
        choice = bare(choice)
    if any(sign in choice for sign in "*?["):
        totals = Counter(event.name for event in events)
        found = [
            event
            for event in events
            if fnmatch.fnmatchcase(_numbered(event, totals) if "#" in choice else event.name, choice)
        ]
        if not found:
            raise ValueError(
                f"no layer that runs in {type(model).__name__} matches {choice!r}{nearest_names(choice, modules)}"
            )
        return found
    return [_named(modules, events, choice)]


def _named(modules: dict[str, nn.Module], events: list[Event], choice: str) -> Event:
    name, _, call = choice.partition("#")
    runs = [event for event in events if event.name == name]
    if not runs and (not name or name not in modules):
        raise ValueError(f"there is no layer {name!r}{nearest_names(name, [*modules, *(e.name for e in events)])}")
    if name in modules:  # by any of its names
        runs = [event for event in events if modules.get(event.name) is modules[name]]
    if not runs:
        raise ValueError(f"layer {name!r} does not run in a forward pass; expected a layer that does")
    if not call and len(runs) > 1:
        raise ValueError(
            f"layer {name!r} runs {len(runs)} times in a forward pass; name one call, from '{name}#1' to '{name}#{len(runs)}'"
        )
    if call and not (call.isdecimal() and 1 <= int(call) <= len(runs)):
        raise ValueError(f"layer {name!r} runs {len(runs)} times in a forward pass, so there is no call {choice!r}")
    return runs[int(call or 1) - 1]


def nearest_names(name: str, known: Iterable[str]) -> str:
    names = [other for other in dict.fromkeys(known) if other]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:5]
    return f"; expected a layer such as {', '.join(repr(n) for n in near)}" if near else ""
