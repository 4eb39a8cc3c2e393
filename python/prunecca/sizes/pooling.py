"""Activations of several resolutions brought to one: adaptive average pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .._arrays import as_tensor
from ..covariance.covariance import Layout
from ..covariance.view import channel_axis

_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


def spatial_axes(shape: tuple[int, ...], layout: Layout, where: str = "") -> tuple[int, ...]:
    """The dimensions that are positions in space.

    Args:
        shape: of an activation.
        layout: as in ``channel_axis``; the letter ``n``, or without one and without a ``c`` in front the first dimension,
            stands for datapoints.
        where: what error messages begin with.

    Returns:
        The dimensions, ascending.

    Raises:
        ValueError: a shape without positions, with more than three dimensions of them, or that does not fit the layout.
    """
    channels = channel_axis(shape, layout, where)
    datapoints = layout.find("n") if layout not in ("infer", "auto", "flat") else 0
    axes = tuple(d for d in range(len(shape)) if d not in (channels, datapoints))
    if layout == "flat" or not 1 <= len(axes) <= 3:
        raise ValueError(
            f"{where}an activation of shape {shape} with layout {layout!r} cannot be pooled; expected 1 to 3 dimensions in "
            "space, such as (N, C, H, W) with 'nchw'"
        )
    return axes


def common_size(
    shapes: Sequence[tuple[int, ...]], layouts: Sequence[Layout], size: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The resolution that activations are pooled to: of each dimension in space the smallest.

    Args:
        shapes: of the activations.
        layouts: of each.
        size: what is wanted instead.

    Returns:
        One length for each dimension in space.

    Raises:
        ValueError: another number of dimensions in space, a size that is larger than one of them, or sequences of tokens
            without a size: their neighbours are not averaged unasked.

    Example:
        >>> common_size([(8, 16, 32, 32), (8, 14, 14, 64)], ["nchw", "nhwc"])
        (14, 14)
    """
    lengths = [
        tuple(shape[d] for d in spatial_axes(shape, layout)) for shape, layout in zip(shapes, layouts, strict=True)
    ]
    if len({len(one) for one in lengths}) > 1:
        given = " and ".join(map(str, dict.fromkeys(shapes)))
        raise ValueError(
            f"activations have shapes {given}; expected as many dimensions in space to pool them to one size"
        )
    if size is not None:
        for shape, one in zip(shapes, lengths, strict=True):
            _check_size(shape, one, tuple(size))
        return tuple(size)
    for shape, layout in zip(shapes, layouts, strict=True):
        if _is_of_tokens(layout) and len(set(lengths)) > 1:
            raise ValueError(
                f"an activation of shape {shape} with layout {layout!r} is a sequence of tokens, whose neighbours are not "
                "averaged unasked; give the size to pool to, or compare one point per sequence, such as points='mean'"
            )
    return tuple(min(side) for side in zip(*lengths, strict=True))


def pooled(x: Any, layout: Layout, size: Sequence[int], *, where: str = "") -> Tensor:
    """An activation averaged to a smaller resolution (``torch.nn.functional.adaptive_avg_pool*d``).

    The channels stay in their dimension, and in memory next to each other if they were. Averages of float16 and bfloat16
    are taken in float32 and rounded once.

    Args:
        x: with 1 to 3 dimensions in space, as a torch, NumPy, CuPy or numba array.
        layout: as in ``channel_axis``.
        size: one length for each dimension in space, no larger than what there is.
        where: put in front of error messages.

    Returns:
        The activation, of the same dtype; itself where it has that size.

    Raises:
        ValueError: a size that does not fit.

    Example:
        >>> import torch
        >>> x = torch.arange(16.0).reshape(1, 4, 4, 1)
        >>> pooled(x, "nhwc", (2, 2)).flatten().tolist()
        [2.5, 4.5, 10.5, 12.5]
    """
    where = f"{where}: " if where else ""
    tensor = as_tensor(x, f"{where}x")
    shape = tuple(tensor.shape)
    axes = spatial_axes(shape, layout, where)
    lengths = tuple(shape[d] for d in axes)
    _check_size(shape, lengths, tuple(size), where)
    if lengths == tuple(size):
        return tensor
    channels = channel_axis(shape, layout)
    order = [*(d for d in range(tensor.ndim) if d not in (channels, *axes)), channels, *axes]
    together = tensor.stride(channels) == 1 and shape[channels] > 1
    inside = tensor.permute(order)
    alone = len(order) == len(axes) + 1
    inside = inside.unsqueeze(0) if alone else inside
    wide = inside.float() if tensor.dtype in (torch.float16, torch.bfloat16) else inside
    averages = _POOLS[len(axes)](wide, tuple(size)).to(tensor.dtype)
    averages = averages.squeeze(0) if alone else averages
    inverse = [order.index(d) for d in range(len(order))]
    out = averages.permute(inverse)
    if together:  # the channels last in memory, as they were
        return out.movedim(channels, -1).contiguous().movedim(-1, channels)
    return out.contiguous()


def _is_of_tokens(layout: Layout) -> bool:
    return layout.endswith("c") and "l" in layout


def _check_size(shape: tuple[int, ...], lengths: tuple[int, ...], size: tuple[int, ...], where: str = "") -> None:
    fits = len(size) == len(lengths) and all(0 < new <= old for new, old in zip(size, lengths, strict=False))
    if not fits:
        raise ValueError(
            f"{where}an activation of shape {shape} cannot be pooled from {lengths} to {size}; expected as many lengths, "
            "from 1 to those"
        )
