"""torch operators over the native kernels: schema, fake kernel, autograd; so torch.compile sees through them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _native
from ._arrays import native, resolved, stream_of

library = torch.library.Library("prunecca", "DEF")  # type: ignore[no-untyped-call]  # torch leaves it unannotated

library.define("masked_weight(Tensor weight, Tensor mask) -> Tensor")  # type: ignore[no-untyped-call]  # so it does here


def masked_weight(weight: Tensor, mask: Tensor) -> Tensor:
    """A weight where a mask is True, exactly +0 elsewhere: for masks that live in the forward pass.

    The gradient is masked alike; the mask has none. Works under ``torch.compile``; the operator is
    ``torch.ops.prunecca.masked_weight``. To train a masked network, ``prunecca.pruning.MaskedAdam`` is faster: its forward
    pass needs no operator.

    Args:
        weight: float16, bfloat16, float32 or float64, of any shape.
        mask: ``torch.bool`` of the same shape and device.

    Returns:
        A new tensor, in the weight's memory order.

    Raises:
        TypeError: no dense tensor, or a dtype that does not fit.
        ValueError: a shape or device that does not fit.

    Example:
        >>> import torch, prunecca as pc
        >>> pc.ops.masked_weight(torch.tensor([1.0, -2.0]), torch.tensor([True, False]))
        tensor([1., 0.])
    """
    for name, tensor in (("weight", weight), ("mask", mask)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; expected a torch tensor")
        if tensor.is_nested or tensor.layout is not torch.strided:
            kind = "nested" if tensor.is_nested else f"of layout {tensor.layout}"
            raise TypeError(f"{name} is {kind}; expected a dense tensor, call .to_dense() or pad it")
    out: Tensor = torch.ops.prunecca.masked_weight(weight, mask)
    return out


def _check(weight: Tensor, mask: Tensor) -> None:
    if weight.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"weight has dtype {weight.dtype}; expected float16, bfloat16, float32 or float64")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask has dtype {mask.dtype}; expected torch.bool")
    if mask.shape != weight.shape or mask.device != weight.device:
        raise ValueError(
            f"mask is {tuple(mask.shape)} on {mask.device}; expected the weight's {tuple(weight.shape)} on {weight.device}"
        )


def _masked_weight(weight: Tensor, mask: Tensor) -> Tensor:
    _check(weight, mask)
    weight, mask = resolved(weight, "weight"), resolved(mask, "mask")
    out = torch.empty_like(weight)
    # The kernel walks memory, so all three must lie in one order; usually they do.
    source = weight if weight.stride() == out.stride() else torch.empty_like(out).copy_(weight)
    ordered = mask if mask.stride() == out.stride() else torch.empty_like(out, dtype=torch.bool).copy_(mask)
    _native.masked_copy(
        [native(out)], [native(source)], [native(ordered)], threads=torch.get_num_threads(), stream=stream_of(weight)
    )
    return out


def _fake(weight: Tensor, mask: Tensor) -> Tensor:
    _check(weight, mask)
    return torch.empty_like(weight)


def _keep_mask(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return masked_weight(gradient, ctx.saved_tensors[0]), None


for _device in ("CPU", "CUDA"):
    library.impl("masked_weight", _masked_weight, _device)  # type: ignore[no-untyped-call]  # and here
torch.library.register_fake("prunecca::masked_weight", _fake, lib=library)
torch.library.register_autograd("prunecca::masked_weight", _backward, setup_context=_keep_mask, lib=library)
