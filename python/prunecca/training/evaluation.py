"""Loss and accuracy of a network on images as they are."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from ..activations.evaluation_mode import evaluating
from ..data.splits import Split

Precision = Literal["float32", "bfloat16"]


def evaluate(
    model: nn.Module, split: Split, *, batch: int = 512, precision: Precision = "float32", channels_last: bool = True
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on a split, never augmented, in eval mode; the model's modes are left as they were."""
    device = next(model.parameters()).device
    loss = torch.zeros((), dtype=torch.float64, device=device)
    hits = torch.zeros((), dtype=torch.int64, device=device)
    with evaluating({"the network": model}, None), torch.no_grad(), autocast(device, precision):
        for inputs, labels in split.batches(batch, channels_last=channels_last):
            logits = model(inputs).float()
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum")
            hits += (logits.argmax(1) == labels).sum()
    return loss.item() / len(split), hits.item() / len(split)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a forward pass has that precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
