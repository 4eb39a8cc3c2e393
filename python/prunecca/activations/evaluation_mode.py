"""Models put into eval mode on one device, and put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def evaluating(models: Mapping[str, nn.Module], device: torch.device | str | None) -> Iterator[torch.device]:
    """Eval mode for all modules, on one device; training flags and devices are as before afterwards.

    A model that is spread over several devices stays where it is. ``torch.inference_mode`` is off meanwhile: its tensors
    cannot tell whether they were overwritten.

    Args:
        models: by what error messages call them.
        device: where they are moved meanwhile; None takes the device they are on.

    Raises:
        ValueError: models on different devices and no device given, or the meta device.
    """
    found = {label: _devices_of(model) for label, model in models.items()}
    before = {label: next(iter(own)) for label, own in found.items() if len(own) == 1}
    if device is None and len(set(before.values())) > 1:
        places = ", ".join(f"{label} on {own}" for label, own in before.items())
        raise ValueError(f"the models are on different devices ({places}); move them to one, or give device=")
    spread = [input_device(model) for label, model in models.items() if len(found[label]) > 1]
    known = (own for own in (*before.values(), *spread) if own is not None)
    target = torch.device(device) if device is not None else next(known, torch.device("cpu"))
    if target.type == "meta":
        raise ValueError("the device is 'meta', where tensors hold no numbers; expected 'cpu' or a CUDA device")
    flags = {module: module.training for model in models.values() for module in model.modules()}
    try:
        for label, model in models.items():
            model.eval()
            if device is not None and len(found[label]) < 2:
                model.to(target)
        with torch.inference_mode(False):
            yield target
    finally:
        for module, training in flags.items():
            module.training = training
        for label, own in before.items():
            if device is not None:
                models[label].to(own)


def input_device(model: nn.Module) -> torch.device | None:
    """Where a model takes its inputs: the device of its first parameter that holds numbers; None if there is none."""
    return next((t.device for t in chain(model.parameters(), model.buffers()) if not t.is_meta), None)


def _devices_of(model: nn.Module) -> set[torch.device]:
    return {tensor.device for tensor in chain(model.parameters(), model.buffers())}
