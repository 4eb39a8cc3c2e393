"""Models put into eval mode on one device, and put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(models: Mapping[str, nn.Module], device: torch.device | str | None) -> Iterator[torch.device]:
    """Eval mode for all modules, on one device; training flags and devices are as before afterwards.

    ``torch.inference_mode`` is off meanwhile: its tensors cannot tell whether they were overwritten.

    Args:
        models: by what error messages call them.
        device: where they are moved meanwhile; None takes the device they are on.

    Raises:
        ValueError: a model spread over several devices, or models on different ones and no device given.
    """
    found = {label: _device_of(label, model) for label, model in models.items()}
    before = {label: own for label, own in found.items() if own is not None}
    if device is None and len(set(before.values())) > 1:
        places = ", ".join(f"{label} on {own}" for label, own in before.items())
        raise ValueError(f"the models are on different devices ({places}); move them to one, or give device=")
    target = torch.device(device) if device is not None else next(iter(before.values()), torch.device("cpu"))
    flags = {module: module.training for model in models.values() for module in model.modules()}
    try:
        for model in models.values():
            model.eval()
            if device is not None:
                model.to(target)
        with torch.inference_mode(False):
            yield target
    finally:
        for module, training in flags.items():
            module.training = training
        for label, own in before.items():
            if device is not None:
                models[label].to(own)


def _device_of(label: str, model: nn.Module) -> torch.device | None:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        raise ValueError(
            f"{label} is spread over {', '.join(sorted(map(str, devices)))}; expected a model on one device"
        )
    return next(iter(devices), None)
