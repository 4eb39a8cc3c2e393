"""Which dimension of a batch holds the datapoints: the second, where a model takes sequences with their steps first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .inputs import Batch, Forward, mapped
from .wrappers import named_layers

_SEQUENCE = (nn.RNNBase, nn.MultiheadAttention)  # torch's transformers are made of the latter
_INPUTS = ("input", "query")
_SIZES = (
    (3, 2),
    (None, 2),
    (3, None),
)  # of a probe's first two dimensions; they differ, so that a module tells them apart


class BatchAxis:
    """Finds the dimension once, by what the model's first recurrent or attention module is given.

    Such a module says by ``batch_first`` which dimension of its input holds the datapoints. The tensor that the model is
    given has its datapoints in dimension 1 where that is the one which comes to lie there.

    Args:
        model: in eval mode.
        forward: as in ``Batch``.
    """

    def __init__(self, model: nn.Module, forward: Forward | None = None) -> None:
        self._model, self._forward = model, forward
        self._found: int | None = None

    def __call__(self, content: Any) -> int:
        """The dimension, 0 or 1; 0 where nothing tells.

        Args:
            content: of the first batch, or a whole data set.
        """
        if self._found is None:
            self._found = self._look(content)
        return self._found

    def _look(self, content: Any) -> int:
        modules = [m for m in named_layers(self._model).values() if isinstance(m, _SEQUENCE)]
        first = _first(content)
        if not modules or first is None or first.ndim not in (2, 3):
            return 0
        for steps, datapoints in _SIZES:
            probe = _probe(content, first, steps, datapoints)
            sizes = _first(probe)
            if sizes is None or sizes.shape[0] == sizes.shape[1]:
                continue
            seen = self._first_input(modules, probe)
            if seen is not None:
                return int(seen[1] == sizes.shape[1])
        return 0

    def _first_input(self, modules: list[Any], probe: Any) -> tuple[int, ...] | None:
        """Shape of what the first of the modules is given, made (N, L, ...) to (L, N, ...); None where none is."""
        seen: list[tuple[int, ...]] = []

        def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next((kwargs[name] for name in _INPUTS if name in kwargs), None)
            if isinstance(x, Tensor) and x.ndim == 3:
                shape = tuple(x.shape)
                seen.append((shape[1], shape[0], shape[2]) if module.batch_first else shape)

        handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in set(modules)]
        try:
            Batch.of(probe, self._forward).private(None).call(self._model)
        except Exception:  # a model that wants other sizes; what it was given until then counts
            pass
        finally:
            for handle in handles:
                handle.remove()
        return seen[0] if seen else None


def _first(content: Any) -> Tensor | None:
    """The tensor that a model is given first, where it is one in plain containers."""
    while not isinstance(content, Tensor):
        if isinstance(content, PackedSequence) or not isinstance(content, tuple | list | Mapping) or not content:
            return None
        content = next(iter(content.values() if isinstance(content, Mapping) else content))
    return content if content.ndim > 1 else None


def _probe(content: Any, first: Tensor, steps: int | None, datapoints: int | None) -> Any:
    """A part of the content: of everything as long as the first tensor in a dimension, as much of it."""
    cuts = list(zip(first.shape[:2], (steps, datapoints), strict=True))

    def cut(part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        for dimension in range(min(2, part.ndim)):
            order = cuts if dimension == 0 and part.ndim > 1 else cuts[::-1]
            most = next((most for size, most in order if size == part.shape[dimension]), None)
            part = part if most is None else part.narrow(dimension, 0, min(most, part.shape[dimension]))
        return part

    return mapped(cut, content)
