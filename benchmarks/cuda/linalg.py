"""The C x C stage of a whole study: all eigendecompositions and singular values, beside torch's solvers and beside the
time of accumulating the covariances they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

import prunecca as pc
from prunecca.bench.timing import ratio
from prunecca.comparison.scores import score
from prunecca.linalg import batched
from prunecca.similarity.registry import find_metrics

from .clock import Bench, Case
from .table import OURS, Aim, Row

# (channels, side) of the paper's cifar10 network, from the first convolution to the fully-connected layer.
LAYERS = [
    *((64, 32), (64, 32), (64, 16), (128, 16), (128, 16), (128, 8), (256, 8), (256, 8), (256, 4)),
    *((512, 4), (512, 4), (512, 2), (1024, 1)),
]
CANDIDATES = 20
IMAGES = 5000
BATCH = 500

LOOPED = "torch, one by one"
BATCHED_BY_TORCH = 128  # above this side torch loops over matrices for seconds: one is timed, and scaled

_STUDY = "C x C stage of a study"


def cases() -> list[Case]:
    """Small sizes, the whole stage, large sizes."""
    sides = sorted({c for c, _ in LAYERS})
    single = {side: (_one(side, 1 + CANDIDATES), partial(one_size, side=side, count=1 + CANDIDATES)) for side in sides}
    small = [case for side, case in single.items() if side <= BATCHED_BY_TORCH]
    large = [case for side, case in single.items() if side > BATCHED_BY_TORCH]
    # Torch's singular values of large matrices can take long: what is asked for is measured before them.
    return [*small, (_study(LAYERS, CANDIDATES), partial(study, layers=LAYERS, candidates=CANDIDATES)), *large]


def study(bench: Bench, layers: Sequence[tuple[int, int]], candidates: int) -> Row:
    """SVCCA of one reference with all candidates at all layers, by the host's clock, its reading of results included."""
    covariances, accumulated = [], 0.0
    for channels, side in layers:
        x, *ys = _activations(bench, channels, side, 1 + candidates)
        accumulate = partial(_accumulate, x, ys)
        covariances.append(cast(list[pc.Covariance], accumulate().finalize()))
        accumulated += bench.host.sample(accumulate)
    metrics = find_metrics("svcca")

    def ours() -> list[Any]:
        # New tensors each time: a decomposition is remembered as long as its matrix lives.
        fresh = [_fresh(layer) for layer in covariances]
        found = iter(score([cov for layer in fresh for cov in layer], metrics))
        return [[next(found) for _ in layer] for layer in fresh]

    error = _error(ours(), covariances)
    if not error <= 1e-6:
        raise AssertionError(f"an SVCCA value is off by {error}; at most 1e-6 was expected")
    seconds = dict(bench.race_on_host({OURS: ours}))
    seconds["accumulating"] = [accumulated]
    seconds[LOOPED] = [_looped(bench, covariances)]
    aims = (
        Aim("of the time of accumulating", ratio(seconds, "accumulating", OURS), 1.0),
        Aim("times faster than torch one by one", ratio(seconds, LOOPED, OURS), 10.0),
    )
    return Row(_study(layers, candidates), seconds, error=error, aims=aims)


def _accumulate(x: Tensor, ys: list[Tensor]) -> pc.StreamingCovariance:
    accumulator = pc.StreamingCovariance()
    for _ in range(IMAGES // BATCH):
        accumulator.update_reference(x)
        for index, y in enumerate(ys):
            accumulator.update_candidate(index, x, y)
    return accumulator


def _looped(bench: Bench, covariances: list[list[pc.Covariance]]) -> float:
    """Seconds of torch's solvers on one matrix after another: timed once on one candidate per layer, and scaled."""
    # The library is loaded by something small.
    small = torch.eye(4, dtype=torch.float64, device=bench.device)
    torch.linalg.eigh(small), torch.linalg.svdvals(small)
    total = 0.0
    for layer in covariances:
        one = layer[0]
        total += bench.host.sample(lambda xx=one.xx: torch.linalg.eigh(xx))
        of_candidate = partial(lambda yy, xy: (torch.linalg.eigh(yy), torch.linalg.svdvals(xy)), one.yy, one.xy)
        total += len(layer) * bench.host.sample(of_candidate)
    return total


def one_size(bench: Bench, side: int, count: int) -> Row:
    """Eigenvectors and singular values of ``count`` matrices of one side, beside torch with all in one call."""
    x = torch.randn(count, 2 * side, side, dtype=torch.float64, device=bench.device)
    matrices, general = x.mT @ x / len(x[0]), x[:, :side]
    values, vectors = batched.eigh(matrices)
    scale = values.abs().amax(-1)[:, None, None]
    error = float(((matrices @ vectors - vectors * values.unsqueeze(-2)).abs() / scale).max())
    checked = count if side <= BATCHED_BY_TORCH else 1
    singular = batched.svdvals(general)
    answers: list[Tensor] = []

    def by_torch() -> None:
        torch.linalg.eigh(matrices[:checked])
        answers.append(torch.linalg.svdvals(general[:checked]))

    once = bench.host.sample(by_torch)
    expected = answers.pop()
    error = max(error, float((singular[:checked] - expected).abs().max() / singular.max()))
    if not error <= 1e-12:
        raise AssertionError(f"an eigenvalue is off by {error} of the largest; at most 1e-12 was expected")

    def ours() -> None:
        batched.eigh(matrices)
        batched.svdvals(general)

    rivals = {OURS: ours}
    if checked == count:
        seconds = dict(bench.race_on_host(rivals | {"torch, batched": by_torch}, (2, 10)))
    else:
        seconds = dict(bench.race_on_host(rivals, (2, 10)))
        seconds["torch, one of them scaled"] = [once * count / checked]
    return Row(_one(side, count), seconds, error=error)


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
    xx = covariances[0].xx.clone()
    return [replace(cov, xx=xx, yy=cov.yy.clone()) for cov in covariances]


def _error(scores: list[Any], covariances: list[list[pc.Covariance]]) -> float:
    """The largest difference of a value from the one that torch's solvers on the host give; of one candidate a layer."""
    worst = 0.0
    for layer, found in zip(covariances, scores, strict=True):
        cov = layer[-1]
        on_host = pc.Covariance(
            cov.count, *(getattr(cov, name).cpu() for name in ("mean_x", "mean_y", "xx", "yy", "xy")), cov.precision
        )
        worst = max(worst, abs(pc.svcca(on_host).mean - found[-1][0]["value"]))
    return worst
