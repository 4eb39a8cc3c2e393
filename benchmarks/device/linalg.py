"""The C x C stage of a whole study: all eigendecompositions and singular values, beside torch's solvers and beside the
time of accumulating the covariances they are of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import prunecca as pc
from prunecca.comparison.scores import score
from prunecca.linalg import batched
from prunecca.similarity.registry import find_metrics

from .bench import Bench, Contest
from .clock import ratio
from .table import OURS, Aim, Row

# (channels, side) of the paper's cifar10 network, from the first convolution to the fully-connected layer.
LAYERS = [
    *((64, 32), (64, 32), (64, 16), (128, 16), (128, 16), (128, 8), (256, 8), (256, 8), (256, 4)),
    *((512, 4), (512, 4), (512, 2), (1024, 1)),
]
CANDIDATES = 20
IMAGES = 5000
BATCH = 500

_STUDY = "C x C stage of a study"


def contests() -> list[Contest]:
    """The whole stage first; then single sizes, by which the route of each size is chosen."""
    chosen: list[Contest] = [(_study(LAYERS, CANDIDATES), partial(study, layers=LAYERS, candidates=CANDIDATES))]
    for side in sorted({c for c, _ in LAYERS}):
        chosen.append((_one(side, 1 + CANDIDATES), partial(one_size, side=side, count=1 + CANDIDATES)))
    return chosen


def study(bench: Bench, layers: Sequence[tuple[int, int]], candidates: int) -> Row:
    """SVCCA of one reference with all candidates at all layers, by the host's clock, its reading of results included."""
    covariances, accumulated = [], 0.0
    for channels, side in layers:
        batches = IMAGES // BATCH
        x, *ys = _activations(bench, channels, side, 1 + candidates)

        def accumulate(x: Tensor = x, ys: list[Tensor] = ys, batches: int = batches) -> pc.StreamingCovariance:
            accumulator = pc.StreamingCovariance()
            for _ in range(batches):
                accumulator.update_reference(x)
                for index, y in enumerate(ys):
                    accumulator.update_candidate(index, x, y)
            return accumulator

        found = accumulate().finalize()
        assert isinstance(found, list)
        covariances.append(found)
        accumulated += bench.host.sample(accumulate)
    metrics = find_metrics("svcca")

    def ours() -> list[Any]:
        # New tensors each time: a decomposition is remembered as long as its matrix lives.
        fresh = [_fresh(of_layer) for of_layer in covariances]
        return [score(of_layer, metrics) for of_layer in fresh]

    def looped() -> None:
        for of_layer in covariances:
            torch.linalg.eigh(of_layer[0].xx)
            for cov in of_layer:
                torch.linalg.eigh(cov.yy)
                torch.linalg.svdvals(cov.xy)

    error = _error(ours(), covariances)
    if not error <= 1e-6:
        raise AssertionError(f"an SVCCA value is off by {error}; at most 1e-6 was expected")
    seconds = dict(bench.race_on_host({OURS: ours}))
    looped()
    seconds["torch, one by one"] = [bench.host.sample(looped)]  # takes seconds: once
    seconds["accumulating"] = [accumulated]
    aims = (
        Aim("of the time of accumulating", ratio(seconds, "accumulating", OURS), 1.0),
        Aim("times faster than torch one by one", ratio(seconds, "torch, one by one", OURS), 5.0),
    )
    return Row(_study(layers, candidates), seconds, error=error, aims=aims)


def one_size(bench: Bench, side: int, count: int) -> Row:
    """Eigenvectors and singular values of ``count`` matrices of one side, beside torch with all in one call."""
    x = torch.randn(count, 2 * side, side, dtype=torch.float64, device=bench.device)
    matrices = x.mT @ x / len(x[0])
    values, vectors = batched.eigh(matrices)
    scale = values.abs().amax(-1)[:, None, None]
    error = float(((matrices @ vectors - vectors * values.unsqueeze(-2)).abs() / scale).max())
    singular = batched.svdvals(x[:, :side])
    error = max(error, float((singular - torch.linalg.svdvals(x[:, :side])).abs().max() / singular.max()))
    if not error <= 1e-12:
        raise AssertionError(f"an eigenvalue is off by {error} of the largest; at most 1e-12 was expected")
    rivals = {
        OURS: lambda: (batched.eigh(matrices), batched.svdvals(x[:, :side])),
        "torch, batched": lambda: (torch.linalg.eigh(matrices), torch.linalg.svdvals(x[:, :side])),
    }
    return Row(_one(side, count), bench.race_on_host(rivals, (2, 10)), error=error)


def _study(layers: Sequence[tuple[int, int]], candidates: int) -> str:
    return f"{_STUDY}: {len(layers)} layers, 1 + {candidates} networks"


def _one(side: int, count: int) -> str:
    return f"eigh and svdvals of {count} x {side} x {side} float64"


def _activations(bench: Bench, channels: int, side: int, count: int) -> list[Tensor]:
    """One batch per network; the networks resemble each other."""
    shape = (BATCH, channels) if side == 1 else (BATCH, channels, side, side)
    common = torch.randn(shape, device=bench.device)
    return [(common + 0.5 * torch.randn_like(common)).relu_() for _ in range(count)]


def _fresh(covariances: list[pc.Covariance]) -> list[pc.Covariance]:
    from dataclasses import replace

    xx = covariances[0].xx.clone()
    return [replace(cov, xx=xx, yy=cov.yy.clone()) for cov in covariances]


def _error(scores: list[Any], covariances: list[list[pc.Covariance]]) -> float:
    """The largest difference of a value from the one that torch's solvers on the host give; of one candidate a layer."""
    worst = 0.0
    for of_layer, found in zip(covariances, scores, strict=True):
        cov = of_layer[-1]
        on_host = pc.Covariance(
            cov.count, *(getattr(cov, name).cpu() for name in ("mean_x", "mean_y", "xx", "yy", "xy")), cov.precision
        )
        worst = max(worst, abs(pc.svcca(on_host).mean - found[-1][0]["value"]))
    return worst
