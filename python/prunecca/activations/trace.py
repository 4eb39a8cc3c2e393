"""One forward pass, watched: which modules and functions ran in which order, and where the output of each layer ends up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .functional import (
    ACTIVATIONS,
    MIXES,
    NORMALISATIONS,
    PASSES_ON,
    SUMS,
    Kind,
    kind_of_function,
)
from .inputs import Batch
from .layouts import ChannelAxes, name_of
from .outputs import first_tensor
from .wrappers import eager, named_layers

_CONVOLUTIONS = nn.modules.conv._ConvNd
_POOLINGS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._LPPoolNd,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)
_OUTPUT_ACTIVATIONS = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid, nn.Softmin, nn.Softmax2d)
_NO_ACTIVATIONS = (*_OUTPUT_ACTIVATIONS, nn.MultiheadAttention, nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten)


@dataclass(eq=False)
class Event:
    """A module returned, or a function that is a layer: where, and what kind of layer ran last (None: none yet).

    Attributes:
        name: of the module; of a function, that of the module before it and its own, such as ``conv1.relu``.
        call: which of the calls by that name this was, from 1.
        kind: of the last layer that had run.
        function: of a function, its own name; empty for a module.
        ordinal: of a function, which of the calls of that function in the forward pass this was, from 1.
        after: of a function, the module before it in the chain of functions; of a module, itself.
        layout: such as ``"nlc"``; None where the channels are not known to be in one axis of the output.
        ndim: dimensions of the output; 0 where it is no tensor.
        representative: this output stands for a convolution, pooling or hidden linear layer.
        overwritten: a later operation of the forward pass wrote to the output in place.
        ends: the layers proper whose activation this is, by name; a sum's is that of its terms.
    """

    name: str
    call: int
    kind: Kind | None
    function: str = ""
    ordinal: int = 0
    after: str = ""
    layout: str | None = None
    ndim: int = 0
    representative: bool = False
    overwritten: bool = False
    ends: tuple[str, ...] = ()


@dataclass(eq=False)
class _Origin:
    """The output of a layer proper on its way to the activation that ends it; ``event`` is where it has got to."""

    kind: Kind
    event: Event
    tensor: Tensor
    layer: str
    activated: bool = False


@dataclass(eq=False)
class _Scope:
    """A module that runs, and the functions that it has called so far, also in its children."""

    name: str
    functions: set[str]


def trace(model: nn.Module, inputs: Batch, label: str = "the model") -> list[Event]:
    """The events of one forward pass without gradients, in the order in which they ended."""
    refuse_scripted(model, label)
    watch = _Watch(model)
    # Without inference mode, whose tensors count no versions: overwritten outputs are found by these.
    with torch.inference_mode(False), torch.no_grad(), eager([model]), watch.hooked(), watch:
        output = inputs.private(None).call(model)
    watch.finish(output)
    return watch.events


class _Watch(TorchFunctionMode):
    """Follows tensors by identity from layers proper through normalisations and residual sums to activations."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.events: list[Event] = []
        self._model = model
        self._names = set(named_layers(model))
        self._axes = ChannelAxes()
        self._scopes: list[_Scope] = [_Scope("", set())]
        self._calls: Counter[str] = Counter()
        self._functions: Counter[str] = Counter()
        self._kind: Kind | None = None
        self._origins: list[_Origin] = []
        self._under_way: dict[int, list[_Origin]] = {}  # of a tensor, by its id
        self._made_by: dict[int, Event] = {}  # of a tensor, the first module or function that gave it
        self._seen: list[tuple[Event, Tensor, int | None]] = []  # keeps tensors alive, so that ids stay theirs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        self._functions[name] += 1
        for scope in self._scopes:
            scope.functions.add(name)
        result = func(*args, **kwargs)
        self._axes.function_returned(func, args, kwargs, result)
        output = first_tensor(result)
        if output is not None:
            before = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
            self._follow(name, before, output)
        return result

    def _follow(self, name: str, before: list[Tensor], output: Tensor) -> None:
        kind = kind_of_function(name)
        arriving = self._under_way.get(id(before[0]), []) if before else []
        if kind is not None:
            self._kind = kind
            origin = _Origin(kind, self._function_event(name, before, output), output, self._scopes[-1].name)
            self._origins.append(origin)
            self._under_way[id(output)] = [] if kind == "pool" else [origin]
        elif name in SUMS:
            terms = [origin for t in before[:2] for origin in self._under_way.get(id(t), [])]
            self._under_way[id(output)] = [origin for origin in dict.fromkeys(terms) if origin.kind == "conv"]
        elif name in PASSES_ON:
            self._under_way[id(output)] = arriving
        elif name in NORMALISATIONS or name in ACTIVATIONS:
            self._advance(arriving, self._function_event(name, before, output), output, name in ACTIVATIONS)
        elif not any(output is t for t in before):
            self._under_way.pop(id(output), None)

    def _advance(self, origins: list[_Origin], event: Event, output: Tensor, activation: bool) -> None:
        for origin in origins:
            origin.event, origin.tensor, origin.activated = event, output, activation
        self._under_way[id(output)] = [] if activation else origins

    def _function_event(self, name: str, before: list[Tensor], output: Tensor) -> Event:
        made = self._made_by.get(id(before[0])) if before else None
        scope = self._scopes[-1].name
        base = made.after if made is not None and made.after.startswith(scope) else scope
        full = f"{base}.{name}" if base else name
        while full in self._names:
            full += "()"
        event = self._event(full, output)
        event.function, event.ordinal, event.after = name, self._functions[name], base
        return event

    def _event(self, name: str, output: Tensor | None) -> Event:
        self._calls[name] += 1
        event = Event(name, self._calls[name], self._kind, after=name)
        self.events.append(event)
        if output is not None:
            event.layout, event.ndim = self._axes.word(output), output.ndim
            self._made_by[id(output)] = event
            self._seen.append((event, output, version_of(output)))
        return event

    def module_called(self, name: str) -> None:
        self._scopes.append(_Scope(name, set()))

    def module_returned(self, name: str, module: nn.Module, args: Any, result: Any) -> None:
        scope = self._scopes.pop()
        output = first_tensor(result)
        own = _kind_of(module)
        self._kind = own or self._kind
        if output is not None:
            self._axes.module_returned(module, output)
        before = self._made_by.get(id(output)) if output is not None else None
        event = self._event(name, output)
        if output is None:
            return
        if before is not None and before.function:  # the function was all that the module did last
            self._replace(before, event)
            return
        if before is not None:
            self._made_by[id(output)] = before
            return
        arriving = first_tensor(args)
        origins = self._under_way.get(id(arriving), []) if arriving is not None else []
        inside = [o for o in self._origins if o.event.function and o.event.name.startswith(f"{name}.")]
        if inside and own is None and next(module.children(), None) is None:  # a layer that reshapes what it computes
            for origin in inside:
                origin.event, origin.tensor = event, output
            self._under_way[id(output)] = [] if inside[-1].kind == "pool" else inside
            return
        if own is not None:  # a layer whose function was not seen, or not the last
            self._origins = [o for o in self._origins if o not in inside]
            origin = _Origin(own, event, output, name)
            self._origins.append(origin)
            self._under_way[id(output)] = [] if own == "pool" else [origin]
        elif origins and arriving is not None and _is_activation(module, scope.functions, arriving, output):
            self._advance(origins, event, output, True)

    def _replace(self, function: Event, module: Event) -> None:
        """What a module returns as a function gave it is the module's."""
        for origin in self._origins:
            if origin.event is function:
                origin.event = module
        self.events.remove(function)
        self._calls[function.name] -= 1
        self._seen = [seen for seen in self._seen if seen[0] is not function]

    def finish(self, output: Any) -> None:
        """Mark what the rest of the forward pass decides: overwritten outputs, and the layer that is the model's output."""
        for event, tensor, version in self._seen:
            event.overwritten = version != version_of(tensor) or version is None
        last = next((origin for origin in reversed(self._origins) if origin.kind != "pool"), None)
        result = first_tensor(output)
        for origin in self._origins:
            origin.event.ends += (origin.layer,)
            is_output = origin.kind == "fc" and not origin.activated and (origin is last or origin.tensor is result)
            # Of what a module computes inside of itself (the projections of an attention), only what ends in an activation.
            inside = kind_of_function(origin.event.function) in ("conv", "fc")
            origin.event.representative |= not is_output and not inside

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        try:
            first = {module: name for name, module in reversed(named_layers(self._model).items())}
            for module, name in reversed(first.items()):
                if name:
                    handles += self._hooks(name, module)
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, name: str, module: nn.Module) -> list[Any]:
        return [
            module.register_forward_pre_hook(lambda *_: self.module_called(name)),
            module.register_forward_hook(lambda module, args, result: self.module_returned(name, module, args, result)),
        ]


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was written to; None where nobody counts, in a forward pass that is made in inference mode."""
    return None if tensor.is_inference() else tensor._version


def refuse_scripted(model: nn.Module, label: str) -> None:
    """TypeError for what ``torch.jit`` made, whose layers cannot be watched."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"{label} is a {type(model).__name__} of torch.jit, whose layers cannot be watched; expected the torch.nn.Module "
            "that it was made from"
        )


def _kind_of(module: nn.Module) -> Kind | None:
    if isinstance(module, _CONVOLUTIONS):
        return "conv"
    if isinstance(module, _POOLINGS):
        return "pool"
    return "fc" if isinstance(module, nn.Linear) else None


def _is_activation(module: nn.Module, functions: set[str], arriving: Tensor, output: Tensor) -> bool:
    """By behaviour: no parameters or children, the same shape, and nothing called that mixes elements."""
    if isinstance(module, _NO_ACTIVATIONS) or arriving.shape != output.shape:
        return False
    if type(module).__module__ == nn.modules.activation.__name__:
        return True
    simple = next(module.children(), None) is None and next(module.parameters(), None) is None
    return simple and bool(functions) and not functions & (MIXES | NORMALISATIONS)
