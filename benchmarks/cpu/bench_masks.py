"""Pruning and masked optimizer steps against torch and NumPy.

    pytest benchmarks/cpu/bench_masks.py

Sizes in millions of weights: 4.7 and 98 to prune, 7 and 68 to train. The largest need about 6 GB.
"""

from __future__ import annotations

import copy
import statistics

import numpy as np
import pytest
import torch
import torch.nn.utils.prune as torch_prune
from torch import nn

import prunecca as pc
from prunecca import pruning
from prunecca.bench.timing import HostClock, ratio, take_turns

RATE = 0.2


def network(millions):
    """Four equal linear layers: one pool, whose tensors are cut across by the threads."""
    width = int((millions * 1e6 / 4) ** 0.5)
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(4)])
    pools = pruning.pools_by_type(model, include_output=True)
    return model, pools, sum(p.numel() for p in model.parameters())


def describe(benchmark, seconds, reference, count, bytes_moved):
    benchmark.extra_info.update({f"{name}, ms": 1e3 * statistics.median(times) for name, times in seconds.items()})
    benchmark.extra_info.update(
        {f"times faster than {name}": ratio(seconds, name, reference) for name in seconds if name != reference}
    )
    benchmark.extra_info.update(
        weights=count,
        gigabytes_per_second=bytes_moved / 1e9 / statistics.median(seconds[reference]),
        cpu_level=pc.cpu_level(),
        threads=torch.get_num_threads(),
    )


@pytest.mark.benchmark(group="prune a fifth of the survivors of a pool")
@pytest.mark.parametrize("millions", [4.7, 98])
def test_prune(benchmark, millions):
    """The mask of the second level: from the weights and the mask of the first."""
    rounds = 9 if millions < 10 else 2
    model, pools, count = network(millions)
    names = pools["fc"]
    rates = {"conv": RATE, "fc": RATE}
    first = pruning.prune(model, pools, rates)
    flat = torch.cat([model.get_parameter(name).detach().ravel() for name in names]).abs().numpy()
    alive = torch.cat([first[name].ravel() for name in names]).numpy()
    survivors = flat[alive]
    k = int(len(survivors) * RATE)

    def ours():
        return pruning.prune(model, pools, rates, first)

    def partition():  # the threshold alone, of magnitudes already gathered: what NumPy does best
        return np.partition(survivors, k)[k]

    # torch's own tool keeps its masks in the modules, so every call has to have new ones: two a round of a short call.
    modules = [copy.deepcopy(model) for _ in range((1 if millions > 10 else 2) * rounds + 1)]

    def global_unstructured():
        layers = [(layer, name) for layer in modules.pop() for name in ("weight", "bias")]
        torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=RATE)
        return torch.cat([getattr(layer, f"{name}_mask").ravel() for layer, name in layers])

    masks = ours()
    after = torch.cat([masks[name].ravel() for name in names]).numpy()
    assert after.sum() == len(survivors) - k
    threshold = partition()  # of 98 million float32 numbers, some are equal to it: of those, the first were pruned
    assert after[alive & (flat > threshold)].all()
    assert not after[~alive | (flat < threshold)].any()

    rivals = {"ours": ours, "numpy.partition": partition, "global_unstructured": global_unstructured}
    seconds = take_turns(rivals, HostClock(), rounds=(rounds, rounds))
    describe(benchmark, seconds, "ours", count, count * (4 + 1 + 4 + 1 + 1))
    benchmark.pedantic(ours, rounds=3)


def step_rivals(kind, model, masks, dtype=torch.float32):
    """Ours; torch's fused step without masks; and the same followed by a multiplication with the masks."""
    options = {"lr": 1e-3, "weight_decay": 5e-4}
    if kind == "sgd":
        options["momentum"] = 0.9
    ours_type, torch_type = (
        (pruning.MaskedAdam, torch.optim.Adam) if kind == "adam" else (pruning.MaskedSGD, torch.optim.SGD)
    )
    models = [copy.deepcopy(model).to(dtype) for _ in range(3)]
    pruning.apply_masks(models[2], masks)
    for m in models:
        generator = torch.Generator().manual_seed(0)
        for name, p in m.named_parameters():
            p.grad = (torch.randn(p.shape, generator=generator) * 0.01 * masks[name]).to(dtype)
    ours = ours_type(models[0].named_parameters(), masks, **options)
    bare, then_masked = (torch_type(m.parameters(), fused=True, **options) for m in models[1:])
    weights = list(models[2].parameters())
    factors = [masks[name].to(dtype) for name, _ in models[2].named_parameters()]

    def multiplied():
        then_masked.step()
        with torch.no_grad():
            torch._foreach_mul_(weights, factors)

    rivals = {"ours": ours.step, "torch, no masks": bare.step, "torch, then masks": multiplied}
    return rivals, models[0], models[2]


@pytest.mark.benchmark(group="one masked optimizer step")
@pytest.mark.parametrize("millions", [7, 68])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_step(benchmark, kind, millions):
    model, pools, count = network(millions)
    masks = pruning.prune(model, pools, {"conv": 0.5, "fc": 0.5})
    rivals, ours, theirs = step_rivals(kind, model, masks)
    for _ in range(5):
        for rival in rivals.values():
            rival()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
        assert (p.detach()[~masks[name]] == 0).all()
    rounds = 25 if millions < 10 else 9
    seconds = take_turns(rivals, HostClock(), rounds=(rounds, rounds))
    moved = count * (4 * (7 if kind == "adam" else 5) + 1)
    describe(benchmark, seconds, "ours", count, moved)
    benchmark.pedantic(rivals["ours"], rounds=5)


@pytest.mark.benchmark(group="one masked optimizer step, half-precision weights")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_step(benchmark, dtype):
    """Ours has float32 moments, torch's has half ones: more bytes, and moments that do not round to nothing."""
    model, pools, count = network(7)
    masks = pruning.prune(model, pools, {"conv": 0.5, "fc": 0.5})
    rivals, ours, _ = step_rivals("adam", model, masks, dtype)
    seconds = take_turns(rivals, HostClock(), rounds=(15, 15), warmup=2)
    describe(benchmark, seconds, "ours", count, count * (2 * 3 + 4 * 4 + 1))
    for name, p in ours.named_parameters():
        assert (p.detach()[~masks[name]] == 0).all()
    benchmark.pedantic(rivals["ours"], rounds=5)
