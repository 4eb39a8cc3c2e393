"""A stand-in for CUDA graphs on the host: what reached the dispatcher and the extension, done again on the same memory.

What Python computes while a step is recorded is constant from then on, as in a graph; a number that is read back, which
a graph refuses, is refused. Recording changes nothing, as a capture runs nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunecca import _native


class Tape(TorchDispatchMode):
    """The calls of one step. Its tensors stay, so that every address stays what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing\nmore words")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, recorded in self.calls:
            made = func(*args, **kwargs)
            for old, new in zip(tree_leaves(recorded), tree_leaves(made), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Tapes:
    """A recorder of training steps.

    Attributes:
        touched: each gives tensors that a step may change.
        recorded, replayed: how often a step was.
    """

    def __init__(self) -> None:
        self.touched: list[Callable[[], list[Tensor]]] = []
        self.recorded = self.replayed = 0
        self._running: Tape | None = None

    @contextlib.contextmanager
    def warming(self) -> Iterator[None]:
        yield

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        tensors = [tensor for each in self.touched for tensor in each()]
        before, drawn = [t.detach().clone() for t in tensors], torch.get_rng_state()
        self._running = tape = Tape()
        try:
            with tape:
                step()
        finally:
            self._running = None
            with torch.no_grad():
                for tensor, old in zip(tensors, before, strict=True):
                    tensor.copy_(old)
            torch.set_rng_state(drawn)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return replay

    def extension(self) -> Any:
        """The extension, whose calls are on the tape, with the plain steps behind the names of those on a device."""
        return _Extension(self)

    def note(self, func: Callable[..., Any], args: Any, kwargs: Any) -> None:
        if self._running is not None:
            self._running.calls.append((func, args, kwargs, None))


class _Extension:
    def __init__(self, tapes: Tapes) -> None:
        self._tapes = tapes

    def __getattr__(self, name: str) -> Any:
        func = {"adam_advance": _advance, "adam_step_scheduled": _scheduled}.get(name) or getattr(_native, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            out = func(*args, **kwargs)
            if out is None:
                self._tapes.note(func, args, kwargs)
            return out

        return call


def _numbers(array: Any, kind: Any) -> Any:
    """The memory of a native array as ctypes numbers."""
    return (kind * math.prod(array[1])).from_address(array[0])


def _advance(step: Any, rate: Any, beta1: float, beta2: float, decay: float, schedule: Any, stream: int) -> None:
    count, numbers = _numbers(step, ctypes.c_float), _numbers(schedule, ctypes.c_double)
    count[0] += 1
    # The plain step takes the count and the rate: they go where the device would find what it makes of them.
    lr = _numbers(rate, ctypes.c_float)[0]
    numbers[:] = [lr, count[0], 1.0, lr]


def _scheduled(schedule: Any, beta1: float, beta2: float, stream: int, **given: Any) -> None:
    lr, count, shrink, _ = _numbers(schedule, ctypes.c_double)
    steps, how = [int(count)] * len(given["weights"]), {"beta1": beta1, "beta2": beta2, "shrink": shrink}
    _native.adam_step(**given, **how, steps=steps, lr=lr, threads=1, stream=stream)
