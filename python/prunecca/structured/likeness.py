"""Whether a narrower network is its parent without some channels, on random inputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..activations.inputs import Batch, tensors
from ..activations.outputs import first_input

_OVER_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_TOLERANCE = 1e-6  # relative, in float64; channels that are mixed up differ by parts of one


class Silenced:
    """The parent of a narrower network, in which channels are silenced: nobody writes or reads them.

    Args:
        model: as it is before channels are cut; copied.
        batch: an example of its inputs.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.model = copy.deepcopy(model)
        self.batch = batch
        self._modules = dict(self.model.named_modules())

    @torch.no_grad()
    def silence(self, name: str, channels: Sequence[int], outputs: bool) -> None:
        """Silence output or input channels of a layer."""
        layer: Any = self._modules[name]
        gone = torch.as_tensor(channels)
        if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
            first = outputs != isinstance(layer, nn.modules.conv._ConvTransposeNd) or getattr(layer, "groups", 1) > 1
            layer.weight.index_fill_(0 if first else 1, gone.to(layer.weight.device), 0)
            if outputs and layer.bias is not None:
                layer.bias.index_fill_(0, gone.to(layer.bias.device), 0)
        elif isinstance(layer, nn.Embedding):
            layer.weight.index_fill_(1, gone.to(layer.weight.device), 0)
        elif isinstance(layer, nn.RNNBase) and not outputs:
            for key, weight in layer.named_parameters(recurse=False):
                if key.startswith("weight_ih_l0"):
                    weight.index_fill_(1, gone.to(weight.device), 0)

    def is_like(self, narrower: nn.Module) -> bool:
        """Whether both give the same on random numbers; also where the parent cannot be run on these."""
        batch = Batch.of(torch.utils._pytree.tree_map(_random, self.batch.content))
        try:
            wanted = _outputs(self.model, batch)
        except Exception:  # numbers that mean something, such as indices
            return True
        found = _outputs(narrower, batch)
        return all(_near(a, b) for a, b in zip(wanted, found, strict=True))


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    """What a copy gives in float64. Norms over channels are another number of fewer: there the weight and bias act alone."""
    model = copy.deepcopy(model).double()
    for module in model.modules():
        if isinstance(module, _OVER_CHANNELS):
            module.register_forward_hook(_affine, with_kwargs=True)
    with torch.no_grad():
        return list(tensors(batch.private(None).call(model)))


def _affine(module: Any, args: tuple[Any, ...], kwargs: Any, output: Tensor) -> Tensor:
    x = first_input(args, kwargs)
    if module.weight is None:
        return x
    shape = (-1, *[1] * (x.ndim - 2)) if isinstance(module, nn.GroupNorm) else module.weight.shape
    shifted: Tensor = x * module.weight.view(shape)
    bias = getattr(module, "bias", None)
    return shifted if bias is None else torch.add(shifted, bias.view(shape))


def _random(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    generator = torch.Generator().manual_seed(0)
    return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)


def _near(wanted: Tensor, found: Tensor) -> bool:
    if not wanted.is_floating_point() or not wanted.isfinite().all():
        return True
    return bool((wanted - found).norm() <= _TOLERANCE * wanted.norm())
