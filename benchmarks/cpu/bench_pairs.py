"""Every layer with every layer: beside hooks written by hand, and beside the libraries that draw this picture.

pytest benchmarks/cpu/bench_pairs.py

``pip install torch_cka pytorch-cka`` for the rivals of the second benchmark; without them it measures the forward passes.
PRUNECCA_PAIRS_IMAGES sets how many images it takes; 10,000 are those of pytorch-cka's authors.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prunecca as pc
from prunecca.bench.timing import HostClock, ratio, take_turns

IMAGES = int(os.environ.get("PRUNECCA_PAIRS_IMAGES", "2000"))
BATCH = 128  # images
SEQUENCES = 64  # in a batch


def encoder(seed: int) -> nn.Module:
    """12 layers of the size of MiniLM."""
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 12, enable_nested_tensor=False).eval()


@pytest.mark.benchmark(group="12 x 12 layers of 384 channels, 128 sequences of 32 tokens, linear CKA")
def test_beside_hooks_written_by_hand(benchmark: Any) -> None:
    reference, candidate = encoder(0), encoder(1)
    inputs = torch.randn(128, 32, 384)
    names = [f"layers.{k}" for k in range(12)]

    def outputs(model: nn.Module, batch: torch.Tensor) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        handles = [model.get_submodule(n).register_forward_hook(lambda _m, _i, y: found.append(y)) for n in names]
        with torch.no_grad():
            model(batch)
        for handle in handles:
            handle.remove()
        return found

    def by_hand() -> list[float]:
        accumulators = [pc.StreamingCovariance() for _ in names]
        for batch in inputs.split(SEQUENCES):
            theirs = outputs(candidate, batch)
            for accumulator, x in zip(accumulators, outputs(reference, batch), strict=True):
                accumulator.update(x, theirs, layout="nlc")
        return [float(pc.linear_cka(cov)) for accumulator in accumulators for cov in accumulator.finalize()]

    def ours() -> list[float]:
        table = pc.compare(reference, candidate, inputs.split(SEQUENCES), names, "linear_cka", pairs="all").table
        return table["value"].tolist()

    assert ours() == pytest.approx(by_hand(), abs=1e-6)
    seconds = take_turns({"ours": ours, "hooks by hand": by_hand}, HostClock(), rounds=(3, 3), warmup=0)
    benchmark.extra_info.update({f"{name}, s": statistics.median(times) for name, times in seconds.items()})
    benchmark.extra_info.update({"times the hooks": ratio(seconds, "ours", "hooks by hand")})
    benchmark.pedantic(ours, rounds=1)


def resnet_layers() -> list[str]:
    blocks = [f"layer{stage}.{block}.conv{k}" for stage in range(1, 5) for block in range(2) for k in (1, 2)]
    return ["conv1", *blocks, "fc"]


@pytest.mark.benchmark(group=f"18 x 18 layers of ResNet-18, {IMAGES} images of 32 x 32")
def test_beside_other_libraries(benchmark: Any) -> None:
    """Values: those of positions exactly, those of whole outputs estimated from the batches that the rivals take."""
    torch.manual_seed(0)
    a, b = (torchvision.models.resnet18(num_classes=10).eval() for _ in range(2))
    names = resnet_layers()
    loader = DataLoader(TensorDataset(torch.randn(IMAGES, 3, 32, 32), torch.zeros(IMAGES)), batch_size=BATCH)

    def forward() -> None:
        with torch.no_grad():
            for images, _ in loader:
                a(images)
                b(images)

    def exact() -> torch.Tensor:
        result = pc.compare(a, b, loader, names, "linear_cka", pairs="all", resize="pool")
        return torch.tensor(result.pivot().to_numpy())

    def estimated() -> torch.Tensor:
        result = pc.compare(a, b, loader, names, "minibatch_cka", pairs="all")
        return torch.tensor(result.pivot().to_numpy())

    rivals: dict[str, Callable[[], Any]] = {
        "ours, exact, positions": exact,
        "ours, estimated, whole outputs": estimated,
        "forward passes": forward,
    }
    others = _pytorch_cka(a, b, loader, names)
    slow = _torch_cka(a, b, loader, names)  # so slow that it is timed once
    truth = _in_float64(a, b, loader, names)
    benchmark.extra_info["ours, error"] = float((estimated() - truth).abs().max())
    assert benchmark.extra_info["ours, error"] < 1e-6
    for name, rival in (others | slow).items():
        began = time.perf_counter()
        values = rival().double().cpu()
        if name in slow:
            benchmark.extra_info[f"{name}, once, s"] = time.perf_counter() - began
        # They take products of features that are not centred, in float32, which costs them hundredths.
        error = float((values - truth).abs().max())
        benchmark.extra_info[f"{name}, error"] = error
        assert error < 0.1, name
    rivals |= others
    seconds = take_turns(rivals, HostClock(), rounds=(3, 3), warmup=0)
    benchmark.extra_info.update({f"{name}, s": statistics.median(times) for name, times in seconds.items()})
    for own in list(rivals)[:2]:
        benchmark.extra_info.update({f"{name}, times {own}": ratio(seconds, name, own) for name in list(rivals)[2:]})
    benchmark.pedantic(exact, rounds=1)


def _in_float64(a: nn.Module, b: nn.Module, loader: Any, names: list[str]) -> torch.Tensor:
    """The estimate that all of them make, from stored activations: HSIC averaged over the batches, then the ratio."""

    def grams(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        kept: dict[str, torch.Tensor] = {}
        handles = [
            model.get_submodule(n).register_forward_hook(lambda _m, _i, y, n=n: kept.update({n: y.double().flatten(1)}))
            for n in names
        ]
        with torch.no_grad():
            model(images)
        for handle in handles:
            handle.remove()
        stack = torch.stack([kept[n] @ kept[n].mT for n in names])
        stack.diagonal(dim1=1, dim2=2).zero_()
        return stack

    def hsic(k: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        """Song et al. 2012, equation 5, of every gram with every other."""
        n = k.shape[-1]
        total = torch.outer(k.sum((1, 2)), m.sum((1, 2))) / ((n - 1) * (n - 2))
        rows = 2 * k.sum(2) @ m.sum(2).mT / (n - 2)
        return (k.flatten(1) @ m.flatten(1).mT + total - rows) / (n * (n - 3))

    xy, xx, yy = (torch.zeros(len(names), len(names), dtype=torch.float64) for _ in range(3))
    for images, _ in loader:
        k, m = grams(a, images), grams(b, images)
        xy, xx, yy = xy + hsic(k, m), xx + hsic(k, k), yy + hsic(m, m)
    return xy / torch.outer(xx.diagonal(), yy.diagonal()).sqrt()


def _pytorch_cka(a: nn.Module, b: nn.Module, loader: Any, names: list[str]) -> dict[str, Callable[[], Any]]:
    if importlib.util.find_spec("cka") is None:
        return {}
    from cka import compute_cka

    return {"pytorch-cka": lambda: torch.as_tensor(compute_cka(a, b, loader, layers=names, device="cpu")[0])}


def _torch_cka(a: nn.Module, b: nn.Module, loader: Any, names: list[str]) -> dict[str, Callable[[], Any]]:
    if importlib.util.find_spec("torch_cka") is None:
        return {}
    from torch_cka import CKA

    def compare() -> torch.Tensor:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cka = CKA(a, b, "a", "b", names, names, device="cpu")
            cka.compare(loader)
        for model in (a, b):  # its hooks stay
            for module in model.modules():
                module._forward_hooks.clear()
        return cka.hsic_matrix

    return {"torch_cka": compare}
