"""A batch of activations as the native code takes it, and what one native call adds up from several of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class View:
    """An activation read in place as a matrix of datapoints by channels.

    Attributes:
        tensor: (N, C), or with positions before or behind the channels, float16 to float64; the caller's own memory.
        channel_axis: the dimension that holds the channels.
        name: what error messages call it, such as ``"candidate 2"``.
        where: what error messages begin with, such as ``"layer 'conv1', batch 7: "``, or nothing.
        channels: columns of the matrix.
        rows: datapoints times positions.
    """

    tensor: Tensor
    channel_axis: int
    name: str = "x"
    where: str = ""
    channels: int = field(init=False)
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.channels = self.tensor.shape[self.channel_axis]
        self.rows = self.tensor.numel() // max(1, self.channels)

    @classmethod
    def of(cls, x: Any, name: str, layout: Layout = "infer", where: str = "") -> View:
        """View any array that ``as_tensor`` takes.

        Args:
            x: a torch, NumPy, CuPy or numba array of a shape that ``layout`` allows.
            name: what error messages call it.
            layout: as in ``channel_axis``.
            where: what error messages begin with, without the colon.

        Raises:
            TypeError: no array, or of another dtype than float16, bfloat16, float32 and float64.
            ValueError: another shape.
        """
        where = f"{where}: " if where else ""
        tensor = as_tensor(x, f"{where}{name}")
        axis = channel_axis(tuple(tensor.shape), layout, where)
        tensor = tensor.reshape(flattened(tuple(tensor.shape), layout))
        if axis == 0:  # rows must come first, for they are read in parts
            tensor, axis = tensor.movedim(0, -1), tensor.ndim - 1
        if tensor.ndim > 4:  # the native code reads four dimensions; neighbours that continue each other are one
            if axis == 1:
                tensor = tensor.flatten(2)
            else:
                tensor, axis = tensor.movedim(axis, -1).flatten(1, -2), 2
        return cls(tensor, axis, name, where)

    def positions(self) -> tuple[int, ...]:
        """The dimensions without the channels."""
        return tuple(self.tensor.shape[: self.channel_axis] + self.tensor.shape[self.channel_axis + 1 :])

    def with_tensor(self, tensor: Tensor) -> View:
        """The same view of another tensor of the same form."""
        return View(tensor, self.channel_axis, self.name, self.where)

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
