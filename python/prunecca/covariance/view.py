"""A batch of activations as the native code takes it, and what one native call adds up from several of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._arrays import as_tensor
from .covariance import Layout

_WORDS = "'nc', 'ncl', 'nlc', 'nchw', 'nhwc' or 'ncdhw'"


def channel_axis(shape: tuple[int, ...], layout: Layout, where: str = "") -> int:
    """The dimension that holds the channels.

    Args:
        shape: of an array of 2 dimensions or more.
        layout: a letter for each dimension, ``c`` for the channels and any others for datapoints and positions: ``"nc"``,
            ``"ncl"``, ``"nlc"``, ``"lnc"``, ``"nchw"``, ``"nhwc"``, ``"ncdhw"``, ``"ndhwc"``, ``"chw"``. ``"infer"`` takes
            dimension 1 of 2, 4 or 5 dimensions; of 3 dimensions, sequences of tokens and signals have their channels in
            different ones, and one must be named. ``"auto"`` takes dimension 1 of any. ``"flat"`` is read as ``"nc"``: the
            first dimension has the datapoints, and all others together are the channels (see ``flattened``).
        where: what error messages begin with.

    Returns:
        The dimension, from 0.

    Raises:
        ValueError: a shape that does not fit, or a layout that is none.
    """
    if layout in ("infer", "auto", "flat"):
        if len(shape) < 2:
            raise ValueError(f"{where}an activation has shape {shape}; expected 2 dimensions or more, such as {_WORDS}")
        if layout == "infer" and len(shape) == 3:
            raise ValueError(
                f"{where}an activation has shape {shape}, which may be (N, L, C), tokens with their channels last, or "
                "(N, C, L), signals; say which: layout='nlc' or layout='ncl'"
            )
        return 1
    if sorted(layout) != sorted(set(layout)) or "c" not in layout or not layout.isalpha() or not layout.islower():
        raise ValueError(
            f"{where}layout is {layout!r}; expected 'infer', or a letter for each dimension, such as {_WORDS}"
        )
    if len(layout) != len(shape):
        raise ValueError(
            f"{where}an activation has shape {shape}; expected {len(layout)} dimensions, by layout {layout!r}"
        )
    return layout.index("c")


def flattened(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """The shape as it is read: by ``layout="flat"`` all dimensions but the first are one, by others nothing changes."""
    return (shape[0], math.prod(shape[1:])) if layout == "flat" and len(shape) > 1 else shape


def kept_rows(rows: Any, shape: tuple[int, ...], axis: int, layout: Layout, where: str = "") -> Tensor:
    """The numbers of the rows that count.

    Args:
        rows: a boolean array, or one of zeros and ones, of a shape that ``in_order`` takes.
        shape: of the activation.
        axis: its dimension that holds the channels.
        layout: of the activation.
        where: what error messages begin with.

    Returns:
        Ascending row numbers, (K,) int64.

    Raises:
        TypeError: an array of other numbers.
        ValueError: a shape that does not fit.
    """
    mask = in_order(as_mask(rows, f"{where}rows"), shape, axis, layout, f"{where}rows")
    return mask.nonzero().squeeze(1)


def row_weights(weights: Any, shape: tuple[int, ...], axis: int, layout: Layout, where: str = "") -> Tensor:
    """The weight of every row, (rows,) float64.

    Args:
        weights: finite numbers from 0 on, of a shape that ``in_order`` takes.
        shape: of the activation.
        axis: its dimension that holds the channels.
        layout: of the activation.
        where: what error messages begin with.

    Raises:
        TypeError: no array of real numbers.
        ValueError: a negative weight, one that is not finite, or a shape that does not fit.
    """
    tensor = _tensor(weights, f"{where}weights", "numbers, one for each row")
    if tensor.is_complex():
        raise TypeError(f"{where}weights has dtype {tensor.dtype}; expected real numbers, one for each row")
    ordered = in_order(tensor.detach().double(), shape, axis, layout, f"{where}weights")
    wrong = ~(torch.isfinite(ordered) & (ordered >= 0))
    if bool(wrong.any()):
        first = float(ordered[wrong.nonzero()[0, 0]])
        raise ValueError(f"{where}weights holds {first}; expected finite numbers from 0 on, one for each row")
    return ordered


def as_mask(value: Any, name: str) -> Tensor:
    """A boolean tensor of booleans, or of zeros and ones.

    Args:
        value: a torch or NumPy array, or a list.
        name: what error messages call it.

    Raises:
        TypeError: other numbers.
    """
    tensor = _tensor(value, name, "a boolean for each row, True for those that count").detach()
    if tensor.dtype == torch.bool:
        return tensor
    whole = not tensor.is_floating_point() and not tensor.is_complex()
    if whole and bool(((tensor == 0) | (tensor == 1)).all()):
        return tensor != 0
    what = f"{tensor.dtype}" + (" with other numbers than 0 and 1" if whole else "")
    raise TypeError(f"{name} holds {what}; expected booleans, True for the rows that count")


def in_order(value: Tensor, shape: tuple[int, ...], axis: int, layout: Layout, name: str) -> Tensor:
    """One value per row of an activation, in the order of its rows, from one per datapoint, position or row.

    Args:
        value: (N,) for datapoints; datapoints and then positions, as (N, L) or (N, H, W); or flat, (rows,).
        shape: of the activation.
        axis: its dimension that holds the channels.
        layout: of the activation; where it has another first letter than ``n``, datapoints come in that dimension.
        name: what error messages call it.

    Returns:
        (rows,), flat.

    Raises:
        ValueError: another shape.
    """
    own = tuple(size for dimension, size in enumerate(shape) if dimension != axis)  # as the rows nest
    letters = "" if layout in ("infer", "auto") else layout.replace("c", "")
    first = max(0, letters.find("n"))  # where datapoints lie among them
    batched = "n" in letters or not letters
    given = (own[first], *own[:first], *own[first + 1 :]) if own else ()  # datapoints first, as a mask has them
    total = 1
    for size in own:
        total *= size
    if value.shape == given:
        return value.movedim(0, first).reshape(-1) if value.ndim else value.reshape(-1)
    if batched and value.ndim == 1 and len(value) == given[0]:
        return value.reshape([-1 if d == first else 1 for d in range(len(own))]).expand(own).reshape(-1)
    if value.ndim == 1 and len(value) == total:
        return value
    datapoints = f"{given[:1]} for datapoints, " if batched and len(given) > 1 else ""
    raise ValueError(
        f"{name} has shape {tuple(value.shape)} for an activation of shape {tuple(shape)}; expected "
        f"{datapoints}{given} or ({total},)"
    )


def _tensor(value: Any, name: str, expected: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        if hasattr(value, "__cuda_array_interface__"):
            return torch.as_tensor(value)
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is a {type(value).__name__}; expected {expected}") from error


@dataclass
class View:
    """An activation read in place as a matrix of datapoints by channels.

    Attributes:
        tensor: (N, C), or with positions before or behind the channels, float16 to float64; the caller's own memory.
        channel_axis: the dimension that holds the channels.
        name: what error messages call it, such as ``"candidate 2"``.
        where: what error messages begin with, such as ``"layer 'conv1', batch 7: "``, or nothing.
        kept: (K,) int64 on the host, ascending; the numbers of the rows that count, or None for all.
        weights: (rows,) float64, positive; None for rows that count once.
        grid: of an activation whose rows were gathered, the dimensions without the channels that it had.
        channels: columns of the matrix.
        rows: datapoints times positions, of those that count.
    """

    tensor: Tensor
    channel_axis: int
    name: str = "x"
    where: str = ""
    kept: Tensor | None = None
    weights: Tensor | None = None
    grid: tuple[int, ...] | None = None
    channels: int = field(init=False)
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.channels = self.tensor.shape[self.channel_axis]
        self.rows = self.tensor.numel() // max(1, self.channels) if self.kept is None else len(self.kept)

    @classmethod
    def of(
        cls, x: Any, name: str, layout: Layout = "infer", where: str = "", rows: Any = None, weights: Any = None
    ) -> View:
        """View any array that ``as_tensor`` takes.

        Args:
            x: a torch, NumPy, CuPy or numba array of a shape that ``layout`` allows.
            name: what error messages call it.
            layout: as in ``channel_axis``.
            where: what error messages begin with, without the colon.
            rows: which rows count, as ``kept_rows`` takes it; None for all.
            weights: how much each counts, as ``row_weights`` takes it; None for once.

        Raises:
            TypeError: no array, or of another dtype than float16, bfloat16, float32 and float64.
            ValueError: another shape, or negative weights.
        """
        where = f"{where}: " if where else ""
        tensor = as_tensor(x, f"{where}{name}")
        axis = channel_axis(tuple(tensor.shape), layout, where)
        tensor = tensor.reshape(flattened(tuple(tensor.shape), layout))
        kept = weight = None
        if rows is not None:
            kept = kept_rows(rows, tuple(tensor.shape), axis, layout, where)
        if weights is not None:
            weight = row_weights(weights, tuple(tensor.shape), axis, layout, where)
            counts = weight > 0
            kept = counts.nonzero().squeeze(1) if kept is None else kept[counts.to(kept.device)[kept]]
            weight = weight[kept.to(weight.device)]
        if axis == 0:  # rows must come first, for they are read in parts
            tensor, axis = tensor.movedim(0, -1), tensor.ndim - 1
        if tensor.ndim > 4:  # the native code reads four dimensions; neighbours that continue each other are one
            if axis == 1:
                tensor = tensor.flatten(2)
            else:
                tensor, axis = tensor.movedim(axis, -1).flatten(1, -2), 2
        view = cls(tensor, axis, name, where)
        return view if kept is None else view._keeping(kept.to(tensor.device), weight)

    def positions(self) -> tuple[int, ...]:
        """The dimensions without the channels."""
        if self.grid is not None:
            return self.grid
        return tuple(self.tensor.shape[: self.channel_axis] + self.tensor.shape[self.channel_axis + 1 :])

    @property
    def count(self) -> int | float:
        """By how much the rows count: how many they are, or the sum of their weights, a float where that is not whole."""
        if self.weights is None:
            return self.rows
        total = float(self.weights.sum())
        return int(total) if total.is_integer() else total

    def with_tensor(self, tensor: Tensor) -> View:
        """The same view of another tensor of the same form."""
        return replace(self, tensor=tensor)

    def gathered(self, numbers: Tensor) -> View:
        """A copy of the rows of these numbers, (K, C), all of which count once."""
        x = self.tensor.movedim(self.channel_axis, -1)
        if x.is_contiguous():
            rows = x.flatten(0, -2).index_select(0, numbers)
        else:
            rows = x[torch.unravel_index(numbers, x.shape[:-1])]
        return View(rows, 1, self.name, self.where, grid=self.positions())

    def chosen(self) -> View:
        """The rows that count, one after another, (K, C); itself where all do."""
        return self if self.kept is None else self.gathered(self.kept)

    def shuffled(self, random: torch.Generator) -> View:
        """Every datapoint in the place of another; chosen rows, of which neighbours are alike, move together."""
        view = self.chosen()
        count = view.tensor.shape[0]
        if self.kept is not None:
            step = -(-count // 4) + int(torch.randint(count // 2 + 1, (1,), generator=random))
            return replace(view, tensor=view.tensor.roll(step, 0))
        order = torch.randperm(count, generator=random)
        places = torch.empty_like(order).index_copy_(0, order, order.roll(1))
        return replace(view, tensor=view.tensor.index_select(0, places.to(view.tensor.device)))

    def sample(self, most: int) -> View:
        """About as many rows that count, evenly spaced."""
        step = max(1, self.rows // most)
        if self.kept is not None:
            return self.gathered(self.kept[::step])
        return View(self.tensor[:: min(step, self.tensor.shape[0])], self.channel_axis, self.name, self.where)

    def part(self, start: int, stop: int) -> View:
        """The entries of the first dimension from ``start`` up to ``stop``."""
        tensor = self.tensor[start:stop]
        if self.kept is None:
            weights = None if self.weights is None else self.weights[start:stop]
            return replace(self, tensor=tensor, weights=weights)
        each = self.tensor[0].numel() // self.channels
        first, last = torch.searchsorted(self.kept, torch.tensor([start * each, stop * each])).tolist()
        return replace(self, tensor=tensor, kept=self.kept[first:last] - start * each)

    def largest(self) -> Tensor:
        """The largest absolute value of the rows that count; 0 of none."""
        x = self.tensor if self.kept is None else self.gathered(self.kept).tensor
        return x.abs().amax() if x.numel() else x.new_zeros(())

    def _keeping(self, numbers: Tensor, weights: Tensor | None) -> View:
        """The view with the rows of these numbers alone; the host's kernels read past the others, all else takes a copy."""
        if weights is None and len(numbers) == self.rows:
            return self
        if weights is None and not self.tensor.is_cuda:
            return replace(self, kept=numbers)
        return replace(self.gathered(numbers), weights=None if weights is None else weights.to(self.tensor.device))

    def rescaled(self, exponent: int) -> View:
        """A copy in float64, multiplied by 2 to a power; the view itself for the power 0."""
        return self.with_tensor(self.tensor.double() * 2.0**exponent) if exponent else self


@dataclass
class Call:
    """What one native call reads, and the float64 tensors that it adds to.

    Attributes:
        views: activations with the same rows.
        pairs: positions in ``views`` whose products are summed.
        shifts: (C,) per view; subtracted from its rows.
        sums: (C,) per view, or None for a view whose sum is not wanted.
        products: (Cx, Cy) per pair.
        norms: (1 + Cx + Cy,) per pair, or none at all.
        exact: products are taken in float64.
        counts: rows so far, per view; none at all where no state is looked at.
    """

    views: list[View]
    pairs: list[tuple[int, int]]
    shifts: list[Tensor]
    sums: list[Tensor | None]
    products: list[Tensor]
    norms: list[Tensor]
    exact: bool
    counts: list[int] = field(default_factory=list)

    @property
    def channel_axes(self) -> list[int]:
        return [view.channel_axis for view in self.views]
