"""Which rows of a batch count in a comparison: what ``rows=`` gives, and how it fits the positions of a layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import RandomSampler

from ..activations.inputs import Batch
from ..covariance.view import as_mask

Rows = str | Tensor | Callable[[Any], Any]

_ATTENTION = "attention_mask"
_PADDING = re.compile(r"pad(ding)?_?mask")  # True, or 1, where there is padding, as in torch
_MASK = re.compile(r"attention_mask|pad(ding)?_?mask")


@dataclass(frozen=True)
class BatchRows:
    """Which datapoints, or which of their positions, count in one batch.

    Attributes:
        mask: (N,) or datapoints and positions, (N, L) or (N, H, W); bool.
        axis: the dimension of the batch that holds the datapoints.
    """

    mask: Tensor
    axis: int = 0

    def fitted(self, own: tuple[int, ...], first: int, where: str) -> Tensor | None:
        """A boolean for each row of a layer, in the order in which they nest.

        Args:
            own: the dimensions of the layer's output without the channels.
            first: which of them holds the datapoints.
            where: what error messages begin with.

        Returns:
            A flat mask, or None for all rows: of outputs without positions, where the mask is one of positions.

        Raises:
            ValueError: the positions are others than those of the mask.
        """
        mask = self.mask
        given = (own[first], *own[:first], *own[first + 1 :])
        if mask.ndim > 2 and mask.flatten(1).shape == given:  # an image whose positions have become tokens
            mask = mask.flatten(1)
        if mask.shape == given:
            return mask.movedim(0, first).reshape(-1)
        if mask.ndim == 1 and len(mask) == own[first]:
            return mask.reshape([-1 if d == first else 1 for d in range(len(own))]).expand(own).reshape(-1)
        if len(own) == 1 and mask.ndim > 1:
            if own[0] == len(mask):
                return None
            if own[0] == mask.numel():  # all positions one after another
                return (mask.movedim(1, 0) if self.axis else mask).reshape(-1)
            if own[0] == int(mask.sum()):  # a packed sequence, which has no padding
                return None
        raise ValueError(
            f"{where}: rows has shape {tuple(self.mask.shape)}, but this output has datapoints and positions {given}; give "
            "a mask of these, or leave the layer out"
        )


def rows_of(rows: Rows, batch: Batch) -> BatchRows:
    """What counts in a batch, by what ``compare`` was given as ``rows``.

    Args:
        rows: a key of the batch; a mask of the whole data set; or a function of the batch.
        batch: as the loader gave it.

    Raises:
        TypeError: what is there is no mask.
        ValueError: a key that the batch does not have, or a mask of other datapoints.
    """
    name = "rows"
    if isinstance(rows, str):
        mask = as_mask(_entry(rows, batch), f"rows={rows!r}")
        mask = ~mask if _PADDING.search(rows) else mask
        name = f"rows={rows!r}"
    elif callable(rows) and not isinstance(rows, Tensor):
        mask = as_mask(rows(batch.content), "what rows gives of a batch")
    else:
        mask = as_mask(rows, name)[batch.start : batch.start + batch.count]
    if not mask.ndim or len(mask) != batch.count:
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)} for a batch of {batch.count} datapoints; expected one boolean for each, "
            f"({batch.count},), or for each of its positions, ({batch.count}, L)"
        )
    return BatchRows(mask, batch.axis)


def by_globs(rows: Rows | Mapping[str, Rows] | None) -> Mapping[str, Rows]:
    """Which rows count, by globs of layers; nothing where all do.

    Raises:
        TypeError: something else than rows.
    """
    if rows is None:
        return {}
    named = rows if isinstance(rows, Mapping) else {"*": rows}
    for glob, each in named.items():
        if not isinstance(each, str | Tensor) and not callable(each):
            raise TypeError(
                f"rows is a {type(each).__name__} for {glob!r}; expected a key of the batches, a boolean tensor, a function "
                "of the batch, or these by globs of layers"
            )
    return named


def check_whole(rows: Rows | Mapping[str, Rows] | None, loader: Any, total: int | None) -> None:
    """A mask of the whole data set must have as many datapoints, and the loader must keep their order.

    Args:
        rows: as ``compare`` was given it.
        loader: as ``compare`` was given it.
        total: datapoints of the loader, if known.

    Raises:
        TypeError: no mask.
        ValueError: another number, or another order.
    """
    for each in by_globs(rows).values():
        if isinstance(each, Tensor):
            _check_mask(each, loader, total)


def _check_mask(rows: Tensor, loader: Any, total: int | None) -> None:
    mask = as_mask(rows, "rows")
    if isinstance(getattr(loader, "sampler", None), RandomSampler):
        raise ValueError(
            "the loader shuffles, so that rows, a mask in the order of the data set, does not fit its batches; expected "
            "shuffle=False, or a mask in each batch and rows= the key or a function of the batch"
        )
    if not mask.ndim or (total is not None and len(mask) != total):
        raise ValueError(
            f"rows has shape {tuple(mask.shape)}, but the loader has {total} datapoints; expected one boolean for each "
            "datapoint, or for each datapoint and position"
        )


def unused_mask(batch: Batch) -> tuple[str, Tensor] | None:
    """A mask in a batch that marks padding, and what ``rows=`` would be for it; None where there is none."""
    for name, value in _named(batch).items():
        if not _MASK.search(name) or not isinstance(value, Tensor) or value.ndim != 2 or not len(value):
            continue
        if value.is_floating_point() or value.is_complex() or (value.is_cuda and batch.start):
            continue  # nothing waits for a device after the first batch
        if not bool(((value == 0) | (value == 1)).all()):
            continue
        mask = value == 0 if _PADDING.search(name) else value != 0
        if not bool(mask.all()) and bool(mask.any()):
            return name, mask
    return None


def is_sequence_of(mask: Tensor, own: tuple[int, ...]) -> bool:
    """Whether a layer has the positions that a mask is of, in one order or the other."""
    return len(own) == 2 and (own == tuple(mask.shape) or own[::-1] == tuple(mask.shape))


def without_channels(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The dimensions of an output that its rows run over."""
    return shape[:axis] + shape[axis + 1 :]


def few_unlike(batch: Batch) -> int:
    """How many datapoints to take for a look: a few, but not as many as there are positions."""
    sizes = {size for tensor in batch.tensors() for size in tensor.shape}
    return next((count for count in (2, 3, 5) if count not in sizes), 2)


def datapoint_axis(own: tuple[int, ...], word: str, batch: Batch) -> int:
    """Which dimension of a layer's output, without the channels, holds the datapoints.

    Args:
        own: the sizes of these dimensions.
        word: the layout of the output.
        batch: that the model was given.
    """
    named = word.replace("c", "").find("n")
    if named > 0:
        return named
    fitting = [dimension for dimension in range(min(2, len(own))) if own[dimension] == batch.count]
    if batch.axis in fitting or not fitting:
        return batch.axis if batch.axis in fitting else 0
    return fitting[0]


def _entry(key: str, batch: Batch) -> Any:
    named = _named(batch)
    if key in named:
        return named[key]
    content = batch.content
    held = f"the keys {', '.join(map(repr, named))}" if named else f"no names: it is a {type(content).__name__}"
    raise ValueError(
        f"rows={key!r} is not in a batch, which has {held}; expected a key of the batch, a boolean tensor, or a function of "
        "the batch"
    )


def _named(batch: Batch) -> Mapping[str, Any]:
    """The parts of a batch that have names; the second of a tuple is the attention mask where it marks the first's padding."""
    content = batch.content
    if isinstance(content, tuple | list) and content:
        names = getattr(content, "_fields", ())
        if names:
            return dict(zip(names, content, strict=True))
        if isinstance(content[0], Mapping):
            return content[0]
        return {_ATTENTION: content[1]} if batch.masked and len(content) > 1 else {}
    if isinstance(content, Mapping):
        return content
    if is_dataclass(content) and not isinstance(content, type):
        return {field.name: getattr(content, field.name) for field in fields(content)}
    return {}
