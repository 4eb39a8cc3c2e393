"""Activations of chosen layers, taken as a forward pass produces them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .layers import Layer, nearest_names
from .outputs import Output, picked
from .wrappers import named_layers


@contextmanager
def capturing(
    model: nn.Module,
    layers: Sequence[Layer],
    consume: Callable[[Layer, Tensor], None],
    label: str = "the model",
    output: Output = None,
) -> Iterator[None]:
    """Give each layer's output to ``consume`` as soon as the one forward pass of ``model`` in this context produces it.

    Hooks are removed on every way out. Raises ``ValueError`` when a layer is missing or did not run as often as in the
    model it was found in, ``TypeError`` when its output is not a tensor of real numbers. ``label`` names the model in
    errors; ``output`` picks a tensor where a layer gives several.
    """
    wanted = {(layer.module, layer.call): layer for layer in layers}
    calls: Counter[str] = Counter()

    def receiver(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def receive(_module: nn.Module, _args: Any, result: Any) -> None:
            calls[name] += 1
            layer = wanted.get((name, calls[name]))
            if layer is None:
                return
            consume(layer, picked(result, output, layer.name, label))

        return receive

    modules = named_layers(model)
    handles = []
    try:
        for name in {layer.module: None for layer in layers}:
            if name not in modules:
                raise ValueError(f"{label} has no layer {name!r}{nearest_names(name, modules)}")
            handles.append(modules[name].register_forward_hook(receiver(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        if calls[layer.module] != layer.calls:
            raise ValueError(
                f"layer {layer.module!r} ran {calls[layer.module]} times in one forward pass of {label}; expected "
                f"{layer.calls} as in the reference"
            )
