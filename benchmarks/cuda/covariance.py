"""The streaming covariance of activations, at every layer size of the paper's networks, beside torch's products."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor

import prunecca as pc
from prunecca.bench.timing import ratio

from .clock import Bench, Case
from .table import OURS, Aim, Row

Order = Literal["NCHW", "channels_last"]

# (channels, side) of the activations of cifar2, 4, 6, 8 and 10; side 1: a fully-connected layer, (N, C).
LAYERS = [
    *((16, 32), (16, 16), (32, 16), (32, 8), (64, 32), (64, 16), (128, 16), (128, 8), (256, 8), (256, 4)),
    *((512, 4), (512, 2), (256, 1), (1024, 1)),
]
IMAGES = 1024  # of a batch: the largest activation takes 256 MiB
ROWS = 1 << 16  # of a batch of a fully-connected layer, so that the device is filled
IN_FLOAT64 = "prunecca, products in float64"
EXACT = 1.3  # times the time of float32 products that exact ones are worth
ERROR = 2e-7  # of the covariance against float64, relative in the Frobenius norm
_HALF = (torch.float16, torch.bfloat16)


def cases() -> list[Case]:
    chosen: list[Case] = []
    for channels, side in LAYERS:
        shape = (ROWS, channels) if side == 1 else (IMAGES, channels, side, side)
        for order in ("NCHW",) if side == 1 else ("NCHW", "channels_last"):
            chosen.append((title(shape, order, torch.float32), partial(update, shape=shape, order=order)))
    orders: tuple[Order, ...] = ("NCHW", "channels_last")
    for channels, side in ((64, 32), (128, 16), (256, 8), (512, 4)):
        shape = (IMAGES, channels, side, side)
        for dtype, order in ((d, o) for d in _HALF for o in orders if o == "NCHW" or d == torch.bfloat16):
            chosen.append((title(shape, order, dtype), partial(update, shape=shape, order=order, dtype=dtype)))
    return chosen


def title(shape: tuple[int, ...], order: str, dtype: torch.dtype) -> str:
    kind = str(dtype).removeprefix("torch.")
    return f"covariance {'x'.join(map(str, shape))} {kind}{'' if len(shape) == 2 else ' ' + order}"


def update(bench: Bench, shape: tuple[int, ...], order: Order = "NCHW", dtype: torch.dtype = torch.float32) -> Row:
    """One batch added to a state, in the middle of a stream; counts N C (C + 1) operations and every byte once."""
    x = torch.randn(shape, device=bench.device).add_(0.3).relu_().to(dtype)
    if len(shape) == 4 and order == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    error = _check(x)
    accumulator = pc.StreamingCovariance()
    accumulator.update(x)
    exact = pc.StreamingCovariance(precision="float64")
    exact.update(x)
    rows = as_rows(x).contiguous()

    def product(matrix: Tensor, precision: str) -> Any:
        torch.backends.cuda.matmul.fp32_precision = precision
        return torch.mm(matrix.T, matrix)

    rivals = {OURS: lambda: accumulator.update(x)}
    if dtype == torch.float32:
        rivals |= {
            "permute, torch.mm": lambda: product(as_rows(x).contiguous(), "ieee"),
            "torch.mm TF32": lambda: product(rows, "tf32"),
            # Where this takes no more than EXACT times as long, it could be what float32 gets as well.
            IN_FLOAT64: lambda: exact.update(x),
        }
    else:
        rivals |= {
            "permute, torch.mm": lambda: product(as_rows(x).contiguous(), "ieee"),
            "torch.mm": lambda: product(rows, "ieee"),
        }
    seconds = bench.race(rivals)
    torch.backends.cuda.matmul.fp32_precision = "none"
    n, c = rows.shape
    row = Row(
        title(shape, order, dtype),
        seconds,
        x.numel() * x.element_size(),
        float(n) * c * (c + 1),
        bench.copy,
        error,
    )
    return _with_aims(row, c)


def _with_aims(row: Row, channels: int) -> Row:
    aims = [Aim("of copy bandwidth", row.of_copy, 0.8)] if channels <= 128 else []
    reported = {}
    if IN_FLOAT64 in row.seconds:  # of float32 activations
        if channels > 128:
            rate = 3 * ratio(row.seconds, "torch.mm TF32", OURS)
            aims.append(Aim("of a third of a TF32 product's rate", rate, 0.6))
        aims.append(Aim("times faster than permute and torch.mm", ratio(row.seconds, "permute, torch.mm", OURS), 3.0))
        reported = {"float64_products_take": ratio(row.seconds, IN_FLOAT64, OURS), "and_are_worth": EXACT}
    return Row(**{**vars(row), "aims": tuple(aims), "reported": reported})


def as_rows(x: Tensor) -> Tensor:
    """(N, C) or (N, C, H, W) as (rows, C), a view where that can be."""
    return x if x.ndim == 2 else x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _check(x: Tensor) -> float:
    """Relative error of the covariance against float64; ``AssertionError`` when it is too large or not repeatable."""
    found, again = (_covariance(x) for _ in range(2))
    if not torch.equal(found, again):
        raise AssertionError("a repetition gave other bits")
    rows = as_rows(x)
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=x.device)
    parts = torch.split(rows, max(1, (1 << 26) // rows.shape[1]))
    for part in parts:
        total += part.sum(0, dtype=torch.float64)
    mean = total / len(rows)
    expected = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=x.device)
    for part in parts:
        centred = part.double() - mean
        expected += centred.T @ centred
    expected /= len(rows) - 1
    error = float((found - expected).norm() / expected.norm())
    if not error <= ERROR:
        raise AssertionError(f"the covariance is off by {error}; at most {ERROR} was expected")
    return error


def _covariance(x: Tensor) -> Tensor:
    accumulator = pc.StreamingCovariance()
    accumulator.update(x)
    return cast(pc.Covariance, accumulator.finalize()).xx
