"""One forward pass, watched: which modules ran in which order, and where the output of each layer proper ends up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .inputs import Batch
from .outputs import first_tensor
from .wrappers import eager, named_layers

Kind = Literal["conv", "pool", "fc"]

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
_NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
_OUTPUT_ACTIVATIONS = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid, nn.Softmin, nn.Softmax2d)
_PASSES_ON = (nn.Identity, nn.modules.dropout._DropoutNd)
_SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}


@dataclass(eq=False)
class Event:
    """A module returned: its name, which of its calls this was, and what kind of layer ran last (None: none yet).

    representative: this output stands for a convolution, pooling or hidden linear layer.
    overwritten: a later operation of the forward pass wrote to the output in place.
    """

    module: str
    call: int
    kind: Kind | None
    representative: bool = False
    overwritten: bool = False


@dataclass(eq=False)
class _Origin:
    """The output of a layer proper on its way to the activation that ends it; ``event`` is where it has got to."""

    kind: Kind
    event: Event
    activated: bool = False


def trace(model: nn.Module, inputs: Batch) -> list[Event]:
    """The events of one forward pass without gradients, in the order in which modules returned."""
    watch = _Watch()
    with torch.no_grad(), eager([model]), _hooked(model, watch.module_returned), watch:
        output = inputs.call(model)
    watch.finish(output)
    return watch.events


class _Watch(TorchFunctionMode):
    """Follows tensors by identity from layers proper through normalisations and residual sums to activations."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self._calls: Counter[str] = Counter()
        self._kind: Kind | None = None
        self._origins: list[_Origin] = []
        self._under_way: dict[int, list[_Origin]] = {}  # of a tensor, by its id
        self._seen: list[tuple[Event, Tensor, int]] = []  # keeps tensors alive, so that ids stay theirs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _SUMS and isinstance(result, Tensor):
            terms = [
                origin for arg in args[:2] if isinstance(arg, Tensor) for origin in self._under_way.get(id(arg), [])
            ]
            self._under_way[id(result)] = [origin for origin in dict.fromkeys(terms) if origin.kind == "conv"]
        return result

    def module_returned(self, name: str, module: nn.Module, args: Any, result: Any) -> None:
        output = first_tensor(result)
        self._calls[name] += 1
        kind = _kind_of(module)
        self._kind = kind or self._kind
        event = Event(name, self._calls[name], self._kind)
        self.events.append(event)
        if output is None:
            return
        self._seen.append((event, output, output._version))
        # A parametrised convolution has children, but is a layer proper all the same.
        if kind is not None or next(module.children(), None) is None:
            arriving = first_tensor(args)
            before = self._under_way.get(id(arriving), []) if arriving is not None else []
            self._under_way[id(output)] = self._through(module, kind, event, before)

    def _through(self, module: nn.Module, kind: Kind | None, event: Event, before: list[_Origin]) -> list[_Origin]:
        if kind is not None:
            origin = _Origin(kind, event)
            self._origins.append(origin)
            return [] if kind == "pool" else [origin]
        if isinstance(module, _PASSES_ON):
            return before
        activation = _is_activation(module)
        if not activation and not isinstance(module, _NORMALISATIONS):
            return []
        for origin in before:
            origin.event, origin.activated = event, activation
        return [] if activation else before

    def finish(self, output: Any) -> None:
        """Mark what the rest of the forward pass decides: overwritten outputs, and the layer that is the model's output."""
        for event, tensor, version in self._seen:
            event.overwritten = tensor._version != version
        last = next((origin for origin in reversed(self._origins) if origin.kind != "pool"), None)
        result = first_tensor(output)
        for origin in self._origins:
            ends_here = any(event is origin.event and tensor is result for event, tensor, _ in self._seen)
            is_output = origin.kind == "fc" and not origin.activated and (origin is last or ends_here)
            origin.event.representative |= not is_output


@contextmanager
def _hooked(model: nn.Module, returned: Callable[[str, nn.Module, Any, Any], None]) -> Iterator[None]:
    handles = []
    try:
        first = {module: name for name, module in reversed(named_layers(model).items())}
        for module, name in first.items():
            if name:
                handles.append(module.register_forward_hook(_named(name, returned)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _named(name: str, returned: Callable[[str, nn.Module, Any, Any], None]) -> Callable[[nn.Module, Any, Any], None]:
    return lambda module, args, result: returned(name, module, args, result)


def _kind_of(module: nn.Module) -> Kind | None:
    if isinstance(module, _CONVOLUTIONS):
        return "conv"
    if isinstance(module, _POOLINGS):
        return "pool"
    return "fc" if isinstance(module, nn.Linear) else None


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == nn.modules.activation.__name__ and not isinstance(
        module, (*_OUTPUT_ACTIVATIONS, nn.MultiheadAttention)
    )
