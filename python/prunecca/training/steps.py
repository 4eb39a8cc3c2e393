"""One step of training: forward pass, loss, backward pass, optimizer; and what makes its bits repeat on a device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .evaluation import Precision, autocast


@dataclass(frozen=True)
class Learner:
    """A network and the optimizer of its weights.

    Args:
        model: in training mode.
        optimizer: of its parameters.
        precision: of the forward pass.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    precision: Precision

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss of a batch, and how many of its images are classified rightly; both where the inputs are."""
        with autocast(inputs.device, self.precision):
            logits = self.model(inputs)
            loss = nn.functional.cross_entropy(logits.float(), labels)
        return loss, (logits.detach().argmax(1) == labels).sum()

    def learn(self, loss: Tensor) -> None:
        """The backward pass and the optimizer's step."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def lay_out(model: nn.Module, device: torch.device, channels_last: bool) -> None:
    """The weights of convolutions in the order of their inputs, in place: on a GPU each pass would reorder them anew.

    Args:
        model: on the device.
        device: of the model; nothing happens on a CPU, whose library keeps weights in an order of its own.
        channels_last: whether the inputs are.
    """
    if channels_last and device.type == "cuda":
        model.to(memory_format=torch.channels_last)


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within, cuDNN takes the same algorithms each time, and only those that give the same bits each time.

    Args:
        device: of the training; nothing happens unless it is a GPU.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
