"""What a model does with its inputs, found out with the first two of them, and calls that take account of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import capturing
from .inputs import Batch, mapped
from .layers import Layer
from .outputs import Output
from .wrappers import named_layers

_PASSES = 6  # of a forward pass that draws random numbers, until two differ
_ALIKE = 1e-2  # of the norm; below that, sums in another order may be why
_SEQUENCES = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_BATCHED = "expected datapoints in the first dimension, as a DataLoader gives them, or x[None] for one"


class SharedBatch:
    """A batch and the copy of it that all models are given, on the device of the comparison."""

    def __init__(self, given: Batch, device: torch.device) -> None:
        self._given, self._device = given, device
        self.renew()

    def renew(self) -> None:
        """Make the copy again, because a model has written to it."""
        self.copy = self._given.private(self._device)
        self._versions = _versions(self.copy)

    def written(self) -> bool:
        return _versions(self.copy) != self._versions


class ModelCall:
    """One model, called in a way that leaves the inputs as they are for the next."""

    def __init__(self, model: nn.Module, label: str, first: Batch) -> None:
        """Make a forward pass or two of the first two datapoints.

        Args:
            model: in eval mode.
            label: what error messages call it.
            first: the first batch.

        Raises:
            TypeError: the model takes other inputs.
            ValueError: the batch is a single sample.
        """
        self.model, self.label, self._random = model, label, False
        self._writes = _writes(model, label, first)
        self._channels_last = takes_channels_last(model, first)

    def __call__(self, inputs: SharedBatch) -> Any:
        # A known writer gets a copy of its own: the activations of another may be views of the inputs.
        batch = inputs.copy.private(None) if self._writes else inputs.copy
        # On the host convolutions are fastest so, and activations lie as the rows that are accumulated.
        result = (_channels_last(batch) if self._channels_last else batch).call(self.model)
        if inputs.written():
            self._writes = True
            inputs.renew()
        return result

    def outputs(self, layers: Sequence[Layer], first: Batch, output: Output = None) -> dict[str, Tensor]:
        """What the layers give for the first two inputs, by name; a warning when they give other values a second time."""
        few = first.few()
        if self._random:  # it has been said
            return self._outputs(layers, few, output)
        devices = {tensor.device for tensor in self.model.parameters() if tensor.is_cuda}
        with torch.random.fork_rng(devices=devices):
            before = _random_states(devices)
            once = self._outputs(layers, few, output)
            drawn = not all(map(torch.equal, before, _random_states(devices)))
            for _ in range(_PASSES if drawn else 1):
                again = self._outputs(layers, few, output)
                other = [name for name, x in once.items() if _differs(x, again[name])]
                if other:
                    self._random = True
                    warnings.warn(
                        f"the forward pass of {self.label} is random: layer {other[0]!r} gives other values for the same "
                        "inputs, so it differs even from itself; turn off what draws random numbers or keeps a state in "
                        "eval mode",
                        stacklevel=2,
                    )
                    break
        return once

    def _outputs(self, layers: Sequence[Layer], few: Batch, output: Output) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        with capturing(self.model, layers, lambda layer, x: seen.update({layer.name: x.clone()}), self.label, output):
            few.private(None).call(self.model)
        return seen


def takes_channels_last(model: nn.Module, first: Batch) -> bool:
    """Whether the model runs on images whose channels are innermost in memory; one that calls view() may not."""
    few = first.few()
    if not any(tensor.ndim == 4 and not tensor.is_cuda for tensor in few.tensors()):
        return False
    try:
        _channels_last(few).call(model)
    except RuntimeError:
        return False
    return True


def _channels_last(batch: Batch) -> Batch:
    def changed(part: Any) -> Any:
        images = isinstance(part, Tensor) and part.ndim == 4
        return part.contiguous(memory_format=torch.channels_last) if images else part

    return replace(batch, content=mapped(changed, batch.content))


def _writes(model: nn.Module, label: str, first: Batch) -> bool:
    few = first.few()
    own = few.private(None)
    versions = _versions(own)
    try:
        with _refusing_samples(model, label, first):
            own.call(model)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        one_more = replace(first, content=mapped(lambda x: x[None] if isinstance(x, Tensor) else x, first.content))
        if not isinstance(error, _SingleSample) and not _runs(model, first) and _runs(model, one_more):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in first.tensors())
            raise ValueError(
                f"the loader gives single samples: {label} takes one of shape {shapes} only as a batch; {_BATCHED}"
            ) from error
        _raise_other_dtype(model, label, first, error)
        raise
    return _versions(own) != versions or not all(map(_same, own.tensors(), few.tensors()))


def _raise_other_dtype(model: nn.Module, label: str, first: Batch, error: Exception) -> None:
    """Say what to do, where a model has failed because its weights have another type than the batches."""
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    given = next((tensor.dtype for tensor in first.tensors() if tensor.is_floating_point()), None)
    if isinstance(error, RuntimeError) and "type" in str(error) and None not in (own, given) and own != given:
        raise TypeError(
            f"{label} has weights of {own}, but the batches are {given}; convert one of them, or give forward=lambda model, "
            "batch: model(batch.to(next(model.parameters()).dtype))"
        ) from error


class _SingleSample(ValueError):
    """A module takes a sample without its dimension of datapoints."""


@contextmanager
def _refusing_samples(model: nn.Module, label: str, first: Batch) -> Iterator[None]:
    """Modules that would take the channels of one sample for datapoints say so."""
    dimensions = next((tensor.ndim for tensor in first.tensors()), 0)
    shape = next((tuple(tensor.shape) for tensor in first.tensors()), ())

    def check(name: str, sample: int) -> Any:
        def checked(_module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].ndim == sample >= dimensions:
                raise _SingleSample(
                    f"the loader gives single samples: layer {name!r} of {label} gets one for the shape {shape}; {_BATCHED}"
                )

        return checked

    handles = []
    try:
        for name, module in named_layers(model).items():
            sample = _dimensions_of_a_sample(module)
            if sample is not None:
                handles.append(module.register_forward_pre_hook(check(name, sample)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _dimensions_of_a_sample(module: nn.Module) -> int | None:
    if isinstance(module, nn.modules.conv._ConvNd):
        return len(module.kernel_size) + 1
    if isinstance(module, _SEQUENCES):
        return 2
    return 1 if isinstance(module, nn.Linear) else None


def _runs(model: nn.Module, batch: Batch) -> bool:
    try:
        batch.private(None).call(model)
    except Exception:
        return False
    return True


def _random_states(devices: set[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


def _versions(batch: Batch) -> list[int]:
    return [tensor._version for tensor in batch.tensors()]


def _same(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.equal(x, y)


def _differs(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape:
        return True
    return bool((x.double() - y.double()).norm() > _ALIKE * x.double().norm())
