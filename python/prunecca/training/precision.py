"""Which precision trains faster on this machine."""

from __future__ import annotations

import copy
import time
from typing import get_args

import torch
from torch import Tensor, nn

from .evaluation import Precision, autocast

_HOPELESS = 3.0  # times the fastest step so far: such a precision is timed once only


def step_seconds(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[Precision, float]:
    """The time of one training step (forward and backward pass) in each precision.

    Args:
        model: a classifier; a copy of it is trained, it stays as it is.
        inputs: (B, C, H, W) float32, on the device of the model.
        labels: (B,) int64.

    Returns:
        Precision -> seconds: the shorter of two steps, after one that warms up.

    Example:
        >>> import torch, prunecca as pc
        >>> from prunecca.training.precision import step_seconds
        >>> model = pc.models.build("digits2", seed=0)
        >>> sorted(step_seconds(model, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])))
        ['bfloat16', 'float32']
    """
    found: dict[Precision, float] = {}
    for precision in get_args(Precision):
        trained = copy.deepcopy(model).train()
        times: list[float] = []
        while len(times) < 3 and (len(times) < 1 or min(times) < _HOPELESS * min(found.values(), default=float("inf"))):
            times.append(_step(trained, inputs, labels, precision))
        found[precision] = min(times)
    return found


def _step(model: nn.Module, inputs: Tensor, labels: Tensor, precision: Precision) -> float:
    _wait(inputs.device)
    began = time.perf_counter()
    model.zero_grad(set_to_none=True)
    with autocast(inputs.device, precision):
        logits = model(inputs)
    nn.functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
    _wait(inputs.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
