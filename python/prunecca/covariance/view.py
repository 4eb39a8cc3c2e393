"""A batch of activations as the native code takes it, and what one native call adds up from several of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .._arrays import as_tensor
from .covariance import Layout


@dataclass
class View:
    """An activation read in place as a matrix of datapoints by channels.

    Attributes:
        tensor: (N, C), (N, C, L), (N, C, H, W) or (N, L, C) float16 to float64; the caller's own memory.
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
    def of(cls, x: Any, name: str, layout: Layout = "auto", where: str = "") -> View:
        """View any array that ``as_tensor`` takes.

        Args:
            x: a torch, NumPy, CuPy or numba array of a shape that ``layout`` allows.
            name: what error messages call it.
            layout: ``"nlc"`` for (N, L, C); ``"auto"`` for the channels in dimension 1.
            where: what error messages begin with, without the colon.

        Raises:
            TypeError: no array, or of another dtype than float16, bfloat16, float32 and float64.
            ValueError: another shape.
        """
        tensor = as_tensor(x, name)
        where = f"{where}: " if where else ""
        if layout == "nlc" and tensor.ndim == 3:
            return cls(tensor, 2, name, where)
        if layout == "auto" and 2 <= tensor.ndim <= 4:
            return cls(tensor, 1, name, where)
        expected = "(N, L, C)" if layout == "nlc" else "(N, C), (N, C, L) or (N, C, H, W)"
        raise ValueError(f"{where}an activation has shape {tuple(tensor.shape)}; expected {expected}")

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
