"""Training steps on a GPU as one CUDA graph: a small network takes longer to be told what to do than to do it.

The step reads everything that differs from batch to batch from fixed places on the device: the order of the images and
their maps are filled in once an epoch, a counter says which batch it is, losses and hits are written where the counter
points. Nothing travels between host and device until the epoch ends.

The bits are those of steps that are not captured. A capture runs nothing, so the steps before it, which torch asks for
as a warm-up, are the first steps of the epoch itself. Dropout draws from the generator of the device: its seed is set at
the start of every epoch and its offset then is 0; torch gives both to a graph at each replay, and moves the offset on by
as much as the same step moves it without a graph. What an epoch draws thus depends on the seed and the epoch alone, also
where the capture falls into another epoch because a training was resumed.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from .._arrays import memory_of
from ..data.augmentation import scale_and_offset
from ..data.splits import Batches
from ..errors import CaptureFailed, ConfigurationError
from ..pruning.masked_optimizer import MaskedOptimizer
from .steps import Learner

VARIABLE = "PRUNECCA_CUDA_GRAPHS"
WARM_UPS = 3  # steps before the capture: kernels are loaded, libraries get their memory, the optimizer its state

_NAMES = ("params", "param_names")
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class Recorder(Protocol):
    """Records what a function does on a device, and does it again."""

    def warming(self) -> contextlib.AbstractContextManager[None]:
        """Within, the function is run before it is recorded."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record ``step`` without running it; what is returned runs it on the same memory."""


class CudaGraphs:
    """Records with CUDA graphs, on a stream beside that of the training.

    Args:
        device: of everything that the functions touch.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _side_stream(device)

    @contextlib.contextmanager
    def warming(self) -> Iterator[None]:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Raises ``CaptureFailed`` where the step does what a graph cannot hold, such as waiting for the device."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self._device), torch.cuda.graph(graph, stream=self._stream):
                step()
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            # Not taken back in silence: torch's allocator and generator may be left as they are within a capture.
            raise CaptureFailed(
                f"a training step cannot be captured in a CUDA graph ({why}); set {VARIABLE}=off to train without graphs"
            ) from error
        return graph.replay


@functools.cache  # freed memory stays with the stream that it was made on
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def recorder_for(device: torch.device) -> Recorder | None:
    """What records the steps on a device; None on a CPU."""
    return CudaGraphs(device) if device.type == "cuda" else None


def graphs_are_on() -> bool:
    """What the variable ``PRUNECCA_CUDA_GRAPHS`` says: ``auto``, also where it is not set, or ``off``.

    Raises:
        ConfigurationError: it says something else.
    """
    given = os.environ.get(VARIABLE) or "auto"
    if given not in ("auto", "off"):
        raise ConfigurationError(f"{VARIABLE} is {given!a:.60}; expected auto or off")
    return given == "auto"


def can_be_captured(learner: Learner, batches: Batches) -> bool:
    """Whether a step does the same on the device each time, whatever Python would do in between."""
    optimizer = learner.optimizer
    return (
        isinstance(optimizer, MaskedOptimizer)
        and all(group["capturable"] for group in optimizer.param_groups)
        and optimizer.penalty.kind == "none"  # whose anchors are renewed between epochs
        and isinstance(batches.split.images, Tensor)
        and not any(getattr(module, hooks) for module in learner.model.modules() for hooks in _HOOKS)
    )


class GraphedSteps:
    """The steps of full batches, replayed; captured anew when anything that they touch lies elsewhere or is set anew.

    Args:
        learner: whose steps they are; see ``can_be_captured``.
        recorder: of its device.
    """

    def __init__(self, learner: Learner, recorder: Recorder) -> None:
        self._learner, self._recorder = learner, recorder
        self._epoch: _Epoch | None = None
        self._replay: Callable[[], None] | None = None
        self._captured: list[Any] = []

    def run(self, batches: Batches, losses: Tensor, hits: Tensor) -> Iterator[int]:
        """Take the steps of an epoch's full batches; after each, how many were taken.

        Args:
            batches: of the epoch; where they are too few for a graph to be worth its capture, no step is taken.
            losses, hits: (batches,), filled in at the end: the sum of the losses of each batch, and its hits.
        """
        full = len(batches.split) // batches.batch
        if full <= WARM_UPS:
            return
        if self._epoch is None or not self._epoch.fits(batches, full):
            self._replay, self._epoch = None, _Epoch(batches, full)  # the old graph's memory is free for the new one
        epoch = self._epoch
        epoch.begin(batches)
        done = 0
        if self._replay is None or self._captured != self._places(epoch):
            self._replay = None
            for done in range(1, WARM_UPS + 1):
                with self._recorder.warming():
                    epoch.step(self._learner)
                yield done
            self._learner.optimizer.zero_grad(set_to_none=True)  # so that the gradients lie in the graph's own memory
            self._captured = self._places(epoch)
            self._replay = self._recorder.record(lambda: epoch.step(self._learner))
        for taken in range(done + 1, full + 1):
            self._replay()
            yield taken
        losses[:full], hits[:full] = epoch.losses, epoch.hits

    def _places(self, epoch: _Epoch) -> list[Any]:
        """Where everything lies that a step touches, and the numbers that a capture makes constant."""
        model, optimizer = self._learner.model, self._learner.optimizer
        masks: dict[str, Tensor] = getattr(optimizer, "masks", {})
        remembered = [
            value for parameter in model.parameters() for value in optimizer.state.get(parameter, {}).values()
        ]
        tensors = [*model.parameters(), *model.buffers(), *masks.values(), *remembered, *epoch.tensors()]
        groups = [
            {k: memory_of(v) if isinstance(v, Tensor) else v for k, v in group.items() if k not in _NAMES}
            for group in optimizer.param_groups
        ]
        modules = [
            {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str | tuple)}
            for module in model.modules()  # such as the rate of a dropout
        ]
        places = [(memory_of(t), t.requires_grad) for t in tensors if isinstance(t, Tensor)]
        return [places, groups, modules]


class _Epoch:
    """The fixed places that a step reads and writes.

    Args:
        batches: of any epoch of the training.
        full: batches that have all their images.
    """

    def __init__(self, batches: Batches, full: int) -> None:
        order, maps = batches.drawn
        device, size = order.device, batches.batch
        self.batches = batches
        self.order = torch.empty(full, size, dtype=torch.int64, device=device)
        self.maps = None if maps is None else torch.empty(full, size, *maps.shape[1:], device=device)
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(full, device=device)
        self.hits = torch.zeros(full, dtype=torch.int64, device=device)
        # A graph keeps no tensor alive that was made outside of it, and these two are in a cache that forgets.
        self.normalisation = scale_and_offset(batches.split.mean, batches.split.std, device)

    def fits(self, batches: Batches, full: int) -> bool:
        """Whether the batches of an epoch have these places."""
        own = self.batches
        return (
            batches.split is own.split
            and (full, batches.batch) == tuple(self.order.shape)
            and (batches.augmentation is None) == (self.maps is None)
            and batches.channels_last == own.channels_last
        )

    def begin(self, batches: Batches) -> None:
        """Fill in what the epoch has drawn."""
        order, maps = batches.drawn
        count = self.order.numel()
        self.order.copy_(order[:count].view_as(self.order))
        if self.maps is not None and maps is not None:
            self.maps.copy_(maps[:count].view_as(self.maps))
        self.number.zero_()

    def step(self, learner: Learner) -> None:
        """The step of the batch that the counter points to, which then points to the next one."""
        chunk = self.order.index_select(0, self.number)[0]
        maps = None if self.maps is None else self.maps.index_select(0, self.number)[0]
        inputs, labels = self.batches.at(chunk, maps)
        loss, hits = learner.forward(inputs, labels)
        learner.learn(loss)
        self.losses.index_copy_(0, self.number, (loss.detach() * len(labels)).view(1))
        self.hits.index_copy_(0, self.number, hits.view(1))
        self.number.add_(1)

    def tensors(self) -> list[Tensor]:
        """All that a graph touches and this keeps."""
        images = self.batches.split.images
        kept = [self.order, self.maps, self.number, self.losses, self.hits, self.batches.split.labels, images]
        return [each for each in kept if isinstance(each, Tensor)]
