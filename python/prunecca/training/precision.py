"""Which precision trains faster on this machine."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor, nn

from .evaluation import Precision, autocast
from .graph import WARM_UPS, graphs_are_on, recorder_for
from .steps import lay_out, repeatable

_HOPELESS = 3.0  # times the fastest step so far: such a precision is timed once only
_TIMED = {"cpu": 2, "cuda": 7}  # steps; those of a GPU are short, and other processes may have it meanwhile


def step_seconds(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[Precision, float]:
    """The time of one training step (forward and backward pass) in each precision, as ``Training`` would take it.

    No first step counts: on a GPU kernels are loaded by it, and on a CPU made for the shapes. On a GPU the step is
    replayed from a CUDA graph, since what Python needs for it is not what the training takes.

    Args:
        model: a classifier; a copy of it is trained, it stays as it is.
        inputs: (B, C, H, W) float32, on the device of the model.
        labels: (B,) int64.

    Returns:
        Precision -> seconds: the shortest of a few steps, after those that warm up.

    Raises:
        CaptureFailed: the step cannot be captured on this device.

    Example:
        >>> import torch, prunecca as pc
        >>> from prunecca.training.precision import step_seconds
        >>> model = pc.models.build("digits2", seed=0)
        >>> sorted(step_seconds(model, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])))
        ['bfloat16', 'float32']
    """
    found: dict[Precision, float] = {}
    with repeatable(inputs.device):
        for precision in get_args(Precision):
            step = _ready(copy.deepcopy(model).train(), inputs, labels, precision)
            best = _seconds(step, inputs.device)
            for _ in range(_TIMED.get(inputs.device.type, 2) - 1):
                if best > _HOPELESS * min(found.values(), default=float("inf")):
                    break
                best = min(best, _seconds(step, inputs.device))
            found[precision] = best
    return found


def _ready(model: nn.Module, inputs: Tensor, labels: Tensor, precision: Precision) -> Callable[[], None]:
    """A step that has warmed up, on a GPU as a graph."""
    lay_out(model, inputs.device, inputs.is_contiguous(memory_format=torch.channels_last))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with autocast(inputs.device, precision):
            logits = model(inputs)
        nn.functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]

    recorder = recorder_for(inputs.device) if graphs_are_on() else None
    if recorder is None:
        step()
        return step
    for _ in range(WARM_UPS):
        with recorder.warming():
            step()
    model.zero_grad(set_to_none=True)
    return recorder.record(step)


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
