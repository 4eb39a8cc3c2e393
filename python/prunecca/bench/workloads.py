"""What the benchmarks time: our calls beside what a user would write otherwise, and a check that they agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..covariance.covariance import Covariance
from ..covariance.streaming import StreamingCovariance
from ..pruning import MaskedAdam
from ..similarity.cca import svcca
from .blas import relative_errors, syrk_rivals
from .timing import Contest, Work

ACCURACY = 1e-7  # of our covariances against float64, relative in the Frobenius norm


def rows_for(channels: int) -> int:
    """Rows that take some tenths of a second, in at most 256 MiB of float32."""
    return min(1 << 22, (1 << 26) // channels, max(8192, 20_000_000_000 // channels**2))


def covariance_of_rows(channels: int, rows: int | None = None) -> Contest:
    """The covariance of an (N, C) float32 matrix; counts N C (C + 1) operations for everybody."""
    rows = rows or rows_for(channels)
    x = _activations((rows, channels))
    accumulator = _warm(x)
    rivals: dict[str, Callable[[], Any]] = {
        "prunecca": lambda: accumulator.update(x),
        "torch.mm": lambda: torch.mm(x.T, x),
        "NumPy": lambda: torch.from_numpy(x.numpy().T @ x.numpy()),
        **syrk_rivals(x),
    }
    return _covariance_contest(rivals, x, ("prunecca",), _work(rows, channels, x.nbytes))


def covariance_of_images(shape: tuple[int, int, int, int]) -> Contest:
    """The covariance of the channels of (N, C, H, W) float32 activations, and of the same numbers as (N, C)."""
    x = _activations(shape)
    last = x.contiguous(memory_format=torch.channels_last)
    n, c, h, w = shape
    flat = x.permute(0, 2, 3, 1).reshape(-1, c).contiguous()
    accumulators = [_warm(a) for a in (x, last, flat)]

    def by_torch() -> Tensor:
        rows = x.permute(0, 2, 3, 1).reshape(-1, c)
        return torch.mm(rows.T, rows)

    rivals: dict[str, Callable[[], Any]] = {
        "prunecca": lambda: accumulators[0].update(x),
        "prunecca, channels_last": lambda: accumulators[1].update(last),
        "prunecca, (N, C)": lambda: accumulators[2].update(flat),
        "permute, reshape, torch.mm": by_torch,
        # Of rows that lie ready, as no activation of this layout does.
        **{f"{name}, (N, C)": call for name, call in syrk_rivals(flat).items()},
    }
    ours = ("prunecca", "prunecca, channels_last", "prunecca, (N, C)")
    return _covariance_contest(rivals, x, ours, _work(n * h * w, c, x.nbytes))


def _covariance_contest(rivals: dict[str, Callable[[], Any]], x: Tensor, ours: Sequence[str], work: Work) -> Contest:
    """Rivals whose errors are all taken against float64; our own must be small, and the same bits when repeated."""

    def check(_: dict[str, Any]) -> dict[str, float]:
        return {"relative_error": covariance_error(x)}

    def errors(results: dict[str, Any]) -> dict[str, float]:
        products = {name: product for name, product in results.items() if name not in ours}
        return relative_errors(products, *_in_float64(x))

    return Contest(rivals, check, work, errors=errors)


def svcca_of_rows(rows: int, channels: int, *, numpy: bool = True) -> Contest:
    """SVCCA of two correlated (N, C) float32 matrices, a sixteenth of whose channels is dead, from arrays to value."""
    x, y = correlated_pair(rows, channels)
    rivals: dict[str, Callable[[], Any]] = {"prunecca": lambda: svcca(x, y, variance=0.99).mean}
    if numpy:
        rivals["NumPy, float64, SVD"] = lambda: svcca_by_numpy(x.numpy(), y.numpy())

    def check(results: dict[str, Any]) -> dict[str, float]:
        error = max(abs(float(value) - float(results["prunecca"])) for value in results.values())
        assert error < 1e-6, f"SVCCA values differ by {error}"
        return {"difference": error}

    # Three products, two of them symmetric: 2 N C (C + 1) + 2 N C^2 operations.
    work = Work(2.0 * rows * channels * (2 * channels + 1), x.nbytes + y.nbytes, rows)
    return Contest(rivals, check, work)


def masked_adam(parameters: int) -> Contest:
    """One step of Adam on ``parameters`` float32 weights, of which a fifth is pruned, in ten tensors."""
    masks = {f"w{k}": torch.rand(parameters // 10) > 0.2 for k in range(10)}
    models = {name: _weights(parameters) for name in ("prunecca", "unmasked", "masked afterwards")}
    ours = MaskedAdam(models["prunecca"].items(), masks, lr=1e-3, weight_decay=5e-4)
    theirs = {
        name: torch.optim.Adam(models[name].values(), lr=1e-3, weight_decay=5e-4, fused=True)
        for name in ("unmasked", "masked afterwards")
    }
    as_floats = [masks[name].float() for name in masks]
    masked: list[Tensor] = list(models["masked afterwards"].values())

    def step_then_mask() -> None:
        theirs["masked afterwards"].step()
        with torch.no_grad():
            torch._foreach_mul_(masked, as_floats)

    def check(_: dict[str, Any]) -> dict[str, float]:
        mine = list(models["prunecca"].values())
        error = max(float((a - b).detach().abs().max()) for a, b in zip(mine, masked, strict=True))
        assert error < 1e-6, f"weights differ by {error} after one step"
        assert all(not bool(a[~masks[n]].any()) for n, a in models["prunecca"].items()), "a pruned weight is not zero"
        return {"difference": error}

    rivals: dict[str, Callable[[], Any]] = {
        "prunecca": ours.step,
        "Adam(fused), unmasked": theirs["unmasked"].step,
        "Adam(fused), then masks": step_then_mask,
    }
    # Weight, gradient and two moments are read, all but the gradient written; and one byte of mask.
    return Contest(rivals, check, Work(bytes=parameters * (7 * 4 + 1.0)))


def correlated_pair(rows: int, channels: int) -> tuple[Tensor, Tensor]:
    """Two float32 matrices with a common signal in half of their directions; every sixteenth channel is dead."""
    generator = torch.Generator().manual_seed(channels)
    shared = torch.randn(rows, max(1, channels // 2), generator=generator)
    pair = []
    for _ in range(2):
        x = shared @ torch.randn(shared.shape[1], channels, generator=generator) / math.sqrt(channels)
        x += torch.randn(rows, channels, generator=generator) * 0.3 + 0.5
        x[:, 15::16] = 0.25
        pair.append(x)
    return pair[0], pair[1]


def svcca_by_numpy(x: Any, y: Any, variance: float = 0.99) -> float:
    """The usual route in float64: full SVD of each centred matrix, the leading part, then CCA from ``numpy.cov``."""
    kept = []
    for matrix in (x, y):
        centred = matrix.astype(np.float64)
        centred -= centred.mean(0)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        k = int((np.cumsum(s**2) < variance * (s**2).sum()).sum()) + 1
        kept.append(u[:, :k] * s[:k])
    k = kept[0].shape[1]
    cov = np.cov(kept[0], kept[1], rowvar=False)
    roots = []
    for block in (cov[:k, :k], cov[k:, k:]):
        values, vectors = np.linalg.eigh(block)
        roots.append((vectors / np.sqrt(values)) @ vectors.T)
    correlations = np.linalg.svd(roots[0] @ cov[:k, k:] @ roots[1], compute_uv=False)
    return float(np.clip(correlations, 0, 1).mean())


def covariance_error(x: Tensor) -> float:
    """Relative error of our covariance of ``x`` against float64.

    ``AssertionError`` when it is above ``ACCURACY``, or when a repetition gives other bits.
    """
    found, again = (_once(x) for _ in range(2))
    assert torch.equal(found, again), "a repetition gave other bits"
    _, truth, _ = _in_float64(x)
    error = float((found - truth).norm() / truth.norm())
    assert error <= ACCURACY, f"the covariance is off by {error}; at most {ACCURACY} was expected"
    return error


def _in_float64(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean, covariance and count of the rows of ``x``."""
    channels = x.shape[1]
    mean, gram, count = (
        x.double().movedim(1, 0).reshape(channels, -1).mean(1),
        torch.zeros(channels, channels).double(),
        0,
    )
    step = max(1, (1 << 22) * len(x) // x.numel())
    for part in torch.split(x, step):
        rows = part.double().movedim(1, 0).reshape(channels, -1).T - mean
        gram += rows.T @ rows
        count += len(rows)
    gram /= count - 1
    return mean, gram, count


def _once(x: Tensor) -> Tensor:
    accumulator = StreamingCovariance()
    accumulator.update(x)
    return cast(Covariance, accumulator.finalize()).xx


def _warm(x: Tensor) -> StreamingCovariance:
    """An accumulator in the middle of its stream: what every batch but the first meets."""
    accumulator = StreamingCovariance()
    accumulator.update(x)
    return accumulator


def _work(rows: int, channels: int, size: int) -> Work:
    return Work(float(rows) * channels * (channels + 1), size, rows)


def _activations(shape: tuple[int, ...]) -> Tensor:
    """Rectified and correlated, as activations are, with means of about half a standard deviation."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).add_(0.3).relu_()


def _weights(parameters: int) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    weights = {f"w{k}": torch.nn.Parameter(torch.randn(parameters // 10, generator=generator)) for k in range(10)}
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=generator)
    return weights
