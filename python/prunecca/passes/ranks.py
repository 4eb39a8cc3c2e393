"""Several processes compare the same models on their shares of the data: whether they do, and what to say if not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..activations.inputs import Batch
from ..covariance.distributed import digests, gather
from .forward import ForwardPasses, Setup

_ADVICE = "load the same state on all of them, or compare with distributed='off'"
_SAME_DATA = (
    "with distributed='shard' every rank is given the same batches in the same order: shuffle them by the same seed, "
    "or pass distributed='sharded' where each rank has its own share"
)


class Ranks:
    """Meets the other ranks twice, whatever happens on any: with the first batch, and at the end.

    Args:
        rank: of this process.
        size: the number of processes.
        same_data: whether every rank is given the same first batch.
    """

    def __init__(self, rank: int, size: int, same_data: bool) -> None:
        self._rank, self._size, self._same_data = rank, size, same_data
        self._met = size == 1

    def meet(self, run: ForwardPasses | None, inputs: Batch | None, failure: Exception | None = None) -> None:
        """Hold models, layers and the first batch against those of the other ranks, once.

        Raises:
            ValueError: they differ; the same sentence on every rank.
            RuntimeError: another rank has failed.
        """
        if self._met:
            return
        self._met = True
        tensors = inputs.tensors() if self._same_data and inputs is not None else []
        batch = digests({f"tensor {number}": tensor for number, tensor in enumerate(tensors)})
        watched = {} if run is None or failure else run.models()
        models = {label: _weights(model) for label, model in watched.items()}
        reports = gather((_message(failure), models, run.setup if run else None, batch))
        if failure is None:
            _raise_failures([message for message, *_ in reports])
            for check, part in ((_models, 1), (_layers, 2), (_first_batches, 3)):
                _compare_with_first([report[part] for report in reports], check)

    def bring_together(
        self, run: ForwardPasses | None, failure: Exception | None, device: torch.device
    ) -> ForwardPasses:
        """Merge what all ranks have seen; a failure on one rank is raised on all, so that none waits for ever."""
        self.meet(run, None, failure)
        reports = gather((_message(failure), run.setup if run else None)) if self._size > 1 else []
        if failure is not None or run is None:
            raise failure or RuntimeError("there is nothing to bring together")
        _raise_failures([message for message, _ in reports])
        setup = next((setup for _, setup in reports if setup is not None), None)
        if setup is not None:
            if run.setup is None:
                run.expect(setup)
            if self._size > 1:
                run.products.merge_over_ranks(device)
        return run


def _weights(model: nn.Module) -> dict[str, str]:
    return digests(dict(model.named_parameters()) | dict(model.named_buffers()))


def _message(failure: Exception | None) -> str | None:
    return None if failure is None else str(failure)


def _raise_failures(messages: list[str | None]) -> None:
    for rank, message in enumerate(messages):
        if message is not None:
            raise RuntimeError(f"the comparison failed on rank {rank}: {message}")


def _compare_with_first(values: list[Any], check: Callable[[Any, Any, str], None]) -> None:
    """Hold every rank's value against the first there is; ranks without one have no say."""
    known = [(rank, value) for rank, value in enumerate(values) if value]
    for rank, value in known[1:]:
        check(known[0][1], value, f"between rank {known[0][0]} and rank {rank}")


def _models(first: Mapping[str, dict[str, str]], other: Mapping[str, dict[str, str]], where: str) -> None:
    if list(first) != list(other):
        raise ValueError(
            f"the candidates differ {where}: {_listed(first)}, and {_listed(other)}; expected the same models"
        )
    for label, tensors in first.items():
        shapes, others = ({n: d.rpartition(" ")[0] for n, d in part.items()} for part in (tensors, other[label]))
        if shapes != others:
            name = next(n for n in [*shapes, *others] if shapes.get(n) != others.get(n))
            raise ValueError(
                f"the architectures of {label} differ {where}: {name!r} is {shapes.get(name, 'missing')}, and "
                f"{others.get(name, 'missing')}; expected the same models on all ranks"
            )
        if tensors != other[label]:
            name = next(n for n in tensors if tensors[n] != other[label][n])
            raise ValueError(f"the weights of {label} differ {where}, first in {name!r}; {_ADVICE}")


def _layers(first: Setup, other: Setup, where: str) -> None:
    if first != other:
        names = [[layer.name for layer in setup.plan.layers] for setup in (first, other)]
        raise ValueError(f"the layers differ {where}: {_listed(names[0])}, and {_listed(names[1])}; expected the same")


def _first_batches(first: Mapping[str, str], other: Mapping[str, str], where: str) -> None:
    if first != other:
        raise ValueError(f"the first batches differ {where}; {_SAME_DATA}")


def _listed(names: Any) -> str:
    return ", ".join(map(str, names))
