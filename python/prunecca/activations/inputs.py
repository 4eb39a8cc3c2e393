"""Batches of inputs from whatever a loader gives, up to a limit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .calls import arguments, is_mask_of
from .evaluation_mode import input_device

# Inputs per batch where a tensor is given in place of a loader; 128 took 7 % longer on a CPU (cifar10 network).
_BATCH = 64
_EXPECTED = "expected a tensor of inputs, a tuple or list that starts with one, or a mapping of them"

Forward = Callable[[nn.Module, Any], Any]
AxisOf = Callable[[Any], int]  # which dimension of a batch, or of a whole data set, holds the datapoints


@dataclass(frozen=True)
class Batch:
    """One batch as a loader gives it, and how a model is called with it.

    Attributes:
        content: tensors, in tuples, lists, mappings and dataclasses as they came.
        forward: called with a model and the content; None calls the model, as ``arguments`` says.
        masked: of a tuple, the second element is the padding mask of the first.
        axis: the dimension of the first tensor that holds the datapoints: 1 of sequences with their steps first.
        start: datapoints of the batches before.
        count: datapoints; of a list of more than two tensors alike that ``forward`` is given, each is one.
    """

    content: Any
    forward: Forward | None = None
    masked: bool = False
    axis: int = 0
    start: int = 0
    count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "count", len(self.content) if self._lists_samples() else _count(self.content, self.axis)
        )

    @classmethod
    def of(cls, content: Any, forward: Forward | None = None) -> Batch:
        """Any batch of a loader, or a batch itself."""
        if isinstance(content, Batch):
            return content
        pair = isinstance(content, tuple | list) and len(content) > 1
        return cls(content, forward, pair and is_mask_of(content[0], content[1]))

    def cut(self, most: int) -> Batch:
        """The first so many datapoints of all that has one value for each."""
        if most >= self.count:
            return self
        if self._lists_samples():
            return replace(self, content=self.content[:most])
        return replace(self, content=mapped(lambda part: _cut(part, self.count, most, self.axis), self.content))

    def _lists_samples(self) -> bool:
        items = self.content
        if self.forward is None or not isinstance(items, list) or len(items) < 3:
            return False
        return all(isinstance(x, Tensor) and (x.ndim, x.dtype) == (items[0].ndim, items[0].dtype) for x in items)

    def few(self) -> Batch:
        """A copy of two datapoints, to look at what a model does."""
        return self.cut(2).private(None)

    def private(self, device: torch.device | None) -> Batch:
        """A copy on a device, or where it is: what models do to it in place, they do not do to the user's tensors."""

        def copied(part: Any) -> Any:
            if not isinstance(part, Tensor):
                return part
            moved = part if device is None else part.to(device, non_blocking=True)
            return moved.clone() if moved is part else moved

        return replace(self, content=mapped(copied, self.content))

    def tensors(self) -> list[Tensor]:
        return list(tensors(self.content))

    def call(self, model: nn.Module) -> Any:
        """What the model returns; its inputs go to the device of its first parameter."""
        device = input_device(model)
        content = self.content
        if device is not None and any(tensor.device != device for tensor in tensors(content)):
            content = self.private(device).content
        if self.forward is not None:
            return self.forward(model, content)
        args, kwargs = arguments(model, content, self.masked)
        return model(*args, **kwargs)


def input_batches(
    loader: Iterable[Any],
    most: int | None,
    share: tuple[int, int],
    forward: Forward | None = None,
    axis_of: AxisOf | None = None,
) -> Iterator[tuple[int, Batch, int]]:
    """Number, batch and the count of inputs seen up to there, of the first batch and of this process's share."""
    seen, axis = 0, axis_of_whole(loader, axis_of)
    masked: bool | None = None
    for number, content in enumerate(_iterable(loader, axis or 0)):
        if forward is None and next((t for t in tensors(content) if t.ndim), None) is None:
            raise TypeError(f"batch {number} of the loader is {_described(content)}; {_EXPECTED}")
        masked = Batch.of(content).masked if masked is None else masked
        axis = axis if axis is not None else axis_of(content) if axis_of is not None else 0
        batch = Batch(content, forward, masked, axis, seen)
        batch = batch if most is None else batch.cut(most - seen)
        seen += batch.count
        if batch.count and (seen == batch.count or number % share[1] == share[0]):
            yield number, batch, seen
        if most is not None and seen >= most:
            return


def axis_of_whole(loader: Any, axis_of: AxisOf | None) -> int | None:
    """The dimension of the datapoints in what is cut into batches here; None of anything else."""
    pieces = isinstance(loader, tuple | list) and len(loader) > 1 and all(isinstance(x, Tensor) for x in loader)
    if not isinstance(loader, Tensor | Mapping) and not pieces:
        return None
    axis = 0 if axis_of is None else axis_of(loader)
    return axis if isinstance(loader, Tensor) or _whole(loader, axis) else None


def total_inputs(loader: Iterable[Any], most: int | None, axis_of: AxisOf | None = None) -> int | None:
    """How many inputs there will be, where that is known beforehand."""
    axis = axis_of_whole(loader, axis_of)
    if axis is not None:
        size: int | None = _count(loader, axis)
    elif isinstance(loader, tuple | list):
        size = sum(_count(batch, 0 if axis_of is None else axis_of(batch)) for batch in loader)
    elif isinstance(loader, DataLoader) and loader.batch_size and isinstance(loader.sampler, Sized):
        drawn = len(loader.sampler)
        size = drawn - drawn % loader.batch_size if loader.drop_last else drawn
    else:
        data: Any = loader if isinstance(loader, Dataset) else getattr(loader, "dataset", None)
        size = len(data) if hasattr(data, "__len__") else None
    return most if size is None else size if most is None else min(size, most)


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same containers with ``function`` of every leaf: tensors, packed sequences, and whatever is no container."""
    if isinstance(value, PackedSequence):
        packed = function(value)
        if packed is not value:
            return packed
        orders = [order if order is None else function(order) for order in value[2:]]
        return PackedSequence(function(value.data), value.batch_sizes, *orders)
    if isinstance(value, Mapping):
        parts = {key: mapped(function, part) for key, part in value.items()}
        try:  # a BatchEncoding stays one, for functions that read its attributes
            same: Any = copy.copy(value)
            for key, part in parts.items():
                same[key] = part
        except TypeError:
            return parts
        return same
    if is_dataclass(value) and not isinstance(value, type):
        settable = [item.name for item in fields(value) if item.init]
        return replace(value, **{name: mapped(function, getattr(value, name)) for name in settable})
    if isinstance(value, tuple | list):
        whole = function(value)
        if whole is not value:
            return whole
        items = [mapped(function, part) for part in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return function(value)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from tensors(getattr(value, item.name))


def _count(content: Any, axis: int = 0) -> int:
    """Datapoints of a batch: the length of its first tensor, or of its first list where it has none."""
    if axis:
        return next((tensor.shape[axis] for tensor in tensors(content) if tensor.ndim > axis), 0)
    if isinstance(content, Tensor):
        return len(content) if content.ndim else 0
    if isinstance(content, PackedSequence):
        return int(content.batch_sizes[0])
    if isinstance(content, Mapping):
        return next((n for n in map(_count, content.values()) if n), 0)
    if is_dataclass(content) and not isinstance(content, type):
        return next((n for n in (_count(getattr(content, item.name)) for item in fields(content)) if n), 0)
    if isinstance(content, tuple | list):
        inner = [n for n in map(_count, content) if n]
        return inner[0] if inner else 0 if any(True for _ in tensors(content)) else len(content)
    return 0


def _cut(part: Any, count: int, most: int, axis: int = 0) -> Any:
    if isinstance(part, PackedSequence):
        padded, lengths = pad_packed_sequence(part, batch_first=True)
        kept = lengths[:most]
        return pack_padded_sequence(padded[:most, : int(kept.max())], kept, batch_first=True, enforce_sorted=False)
    if isinstance(part, Tensor):
        return _rows(part, count, slice(most), axis)
    texts = isinstance(part, tuple | list) and not any(True for _ in tensors(part)) and len(part) == count
    return part[:most] if texts and not hasattr(part, "_fields") else part


def _described(content: Any) -> str:
    first = content[0] if isinstance(content, tuple | list) and content else content
    starts = f" that starts with a {type(first).__name__}" if first is not content else ""
    return f"a {type(content).__name__}{starts}"


def _iterable(loader: Any, axis: int = 0) -> Iterable[Any]:
    """A loader; or the batches of a tensor, of several that belong together, or of a data set, which gives single samples."""
    if isinstance(loader, Tensor):
        return torch.split(loader, _BATCH, axis)
    if _whole(loader, axis):
        return _parts(loader, axis)
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        return _collated(loader)
    if isinstance(loader, str | bytes) or not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        given = "None" if loader is None else f"a {type(loader).__name__}"
        raise TypeError(
            f"the loader is {given}; expected batches: a DataLoader, a list of them, a tensor, or a data set"
        )
    return cast("Iterable[Any]", loader)


def _whole(loader: Any, axis: int = 0) -> bool:
    """Whether tensors belong together: by name, or because batches would not differ in dtype or number of dimensions."""
    if isinstance(loader, Mapping):
        return True
    if not isinstance(loader, tuple | list) or len(loader) < 2 or not all(isinstance(x, Tensor) for x in loader):
        return False
    if axis:
        count = _count(loader, axis)
        if any(count not in x.shape[:2] for x in loader):
            return False
    elif len({x.shape[:1] for x in loader}) > 1:
        return False
    return len({(x.ndim, x.dtype) for x in loader}) > 1 or is_mask_of(*loader[:2])


def _parts(whole: Any, axis: int) -> Iterator[Any]:
    count = _count(whole, axis)
    for start in range(0, count, _BATCH):
        yield mapped(partial(_rows, count=count, rows=slice(start, start + _BATCH), axis=axis), whole)


def _rows(part: Any, count: int, rows: slice, axis: int = 0) -> Any:
    if not isinstance(part, Tensor) or not part.ndim:
        return part
    first = len(part) == count
    # Beside sequences with their steps first, labels and masks have datapoints first.
    if axis and part.ndim > axis and part.shape[axis] == count and not (first and part.dtype == torch.bool):
        return part[:, rows]
    return part[rows] if first else part


def _collated(samples: Dataset[Any]) -> Iterator[Any]:
    try:
        yield from DataLoader(samples, batch_size=_BATCH)
    except TypeError as error:
        raise TypeError(
            f"the loader is a data set whose samples do not make batches ({error}); expected a DataLoader of it"
        ) from error
