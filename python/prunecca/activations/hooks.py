"""Activations of chosen layers, taken as a forward pass produces them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .layers import Layer, nearest_names
from .layouts import name_of
from .outputs import Output, first_input, picked
from .trace import refuse_scripted
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
    refuse_scripted(model, label)
    wanted = {(layer.module, layer.call): layer for layer in layers if not layer.function}
    calls: Counter[str] = Counter()

    def receiver(name: str) -> Callable[..., None]:
        def receive(_module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            calls[name] += 1
            layer = wanted.get((name, calls[name]))
            if layer is None:
                return
            given = first_input(args, kwargs) if layer.of_input else None
            consume(layer, picked(result, output, layer.name, label) if given is None else given)

        return receive

    modules = named_layers(model)
    functions = _Functions(
        [layer for layer in layers if layer.function],
        lambda layer, result: consume(layer, picked(result, None, layer.name, label)),
    )
    handles = []
    try:
        for name in {layer.module: None for layer in layers if not layer.function}:
            if name not in modules:
                raise ValueError(f"{label} has no layer {name!r}{nearest_names(name, modules)}")
            handles.append(modules[name].register_forward_hook(receiver(name), with_kwargs=True))
        with functions if functions.wanted else nullcontext():
            yield
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        if layer.function:
            if functions.calls[layer.function] < layer.ordinal:
                raise ValueError(
                    f"{label} calls {layer.function} {functions.calls[layer.function]} times in one forward pass, so that "
                    f"there is no layer {layer.name!r}"
                )
        elif calls[layer.module] != layer.calls:
            raise ValueError(
                f"layer {layer.module!r} ran {calls[layer.module]} times in one forward pass of {label}; expected "
                f"{layer.calls} as in the reference"
            )


class _Functions(TorchFunctionMode):
    """Counts the calls of torch functions, and gives away what the chosen ones return."""

    def __init__(self, layers: Sequence[Layer], consume: Callable[[Layer, Any], None]) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.wanted = {(layer.function, layer.ordinal): layer for layer in layers}
        self._names = {layer.function for layer in layers}
        self._consume = consume

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = name_of(func)
        if name in self._names:
            self.calls[name] += 1
            layer = self.wanted.get((name, self.calls[name]))
            if layer is not None:
                self._consume(layer, result)
        return result
