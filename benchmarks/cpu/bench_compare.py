"""compare() beside the bare forward passes, and the dense stage beside the accumulation it follows.

pytest benchmarks/cpu/bench_compare.py
"""

from __future__ import annotations

import statistics

import psutil
import pytest
import torch

import prunecca as pc
from prunecca import models
from prunecca.bench.timing import HostClock, ratio, take_turns
from prunecca.comparison.scores import score
from prunecca.covariance.streaming import StreamingCovariance
from prunecca.similarity.registry import find_metrics

BATCH = 128


def networks(candidates):
    reference, *others = [models.build("cifar10", seed=seed).eval() for seed in range(candidates + 1)]
    return reference, {str(k): model for k, model in enumerate(others)}


@pytest.mark.benchmark(group="compare(), cifar10 network, 512 images, 1 reference and 5 candidates, all layers")
def test_compare_beside_forward_passes(benchmark):
    reference, candidates = networks(5)
    images = torch.randn(512, 3, 32, 32)
    last = images.contiguous(memory_format=torch.channels_last)

    def forward(inputs):
        with torch.no_grad():
            for model in (reference, *candidates.values()):
                for part in torch.split(inputs, BATCH):
                    model(part)

    def ours():
        return pc.compare(reference, candidates, images)

    table = ours().table
    assert len(table) == 5 * 13
    assert table["value"].between(0.0, 1.0).all()
    # As a user has them, and in the layout that compare() chooses for itself.
    rivals = {"ours": ours, "forward": lambda: forward(images), "forward, channels_last": lambda: forward(last)}
    seconds = take_turns(
        rivals, HostClock(), rounds=(3, 3), warmup=0
    )  # each takes ten seconds or more, and ours has run once
    benchmark.extra_info.update({f"{name}, s": statistics.median(times) for name, times in seconds.items()})
    benchmark.extra_info.update(
        {f"times the {name} passes": ratio(seconds, "ours", name) for name in list(rivals)[1:]},
        cpu_level=pc.cpu_level(),
    )
    benchmark.pedantic(ours, rounds=1)


@pytest.mark.benchmark(group="compare(), peak memory against the number of images")
def test_peak_memory_is_flat(benchmark):
    reference, candidates = networks(1)
    process = psutil.Process()

    def peak(count):
        highest = 0

        def note(done, total):
            nonlocal highest
            highest = max(highest, process.memory_info().rss)

        loader = (torch.randn(BATCH, 3, 32, 32) for _ in range(count // BATCH))
        pc.compare(reference, candidates, loader, progress=note)
        return highest

    peak(512)  # what the first call leaves behind counts for neither
    few, many = peak(1024), peak(4096)  # the heap takes about eight batches to settle
    assert many <= 1.05 * few, f"1024 images took {few} bytes at most, 4096 took {many}"
    benchmark.extra_info.update({"1024 images, MB": few / 1e6, "4096 images, MB": many / 1e6, "growth": many / few - 1})
    benchmark.pedantic(peak, (512,), rounds=1)


@pytest.mark.benchmark(
    group="dense stage of 1 reference and 20 candidates, 5000 images of a layer of 512 channels at 4 x 4"
)
@pytest.mark.parametrize(
    "metrics", [("svcca",), ("svcca", "cca", "pwcca", "linear_cka", "nbs", "procrustes")], ids="+".join
)
def test_dense_stage(benchmark, metrics):
    """Where the time of a comparison goes once the forward passes are done."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(512, 512, generator=generator) / 512**0.5

    def activation():
        return (
            torch.randn(100 * 16, 512, generator=generator)
            .mm(mix)
            .add_(0.3)
            .relu_()
            .reshape(100, 4, 4, 512)
            .permute(0, 3, 1, 2)
        )

    x, ys = activation(), [activation() for _ in range(20)]
    accumulator = StreamingCovariance()
    accumulator.update(x, ys)

    def accumulate():  # 5000 images in batches of 100
        for _ in range(50):
            accumulator.update(x, ys)

    chosen = find_metrics(metrics)

    def dense():
        return score(accumulator.finalize(), chosen)

    rows = dense()
    direct = [pc.svcca(x, y).mean for y in ys[:2]]
    assert [row[0]["value"] for row in rows[:2]] == pytest.approx(direct, abs=1e-6)
    seconds = take_turns({"ours": dense, "accumulation": accumulate}, HostClock(), rounds=(3, 3))
    benchmark.extra_info.update({f"{name}, s": statistics.median(times) for name, times in seconds.items()})
    benchmark.extra_info.update({"share of the accumulation": ratio(seconds, "ours", "accumulation")})
    benchmark.pedantic(dense, rounds=2)


@pytest.mark.benchmark(group="eigendecompositions of 20 matrices of 512 x 512, float64")
def test_eigendecompositions(benchmark):
    """A matrix per thread, beside LAPACK with all threads on one matrix after the other, and SciPy."""
    import scipy.linalg

    from prunecca.linalg import batched

    samples = torch.randn(20, 600, 512, dtype=torch.float64)
    matrices = samples.mT @ samples
    rivals = {
        "ours": lambda: batched.eigh(matrices),
        "torch.linalg.eigh": lambda: torch.linalg.eigh(matrices),
        "scipy.linalg.eigh": lambda: [scipy.linalg.eigh(m.numpy()) for m in matrices],
    }
    values = rivals["ours"]()[0]
    torch.testing.assert_close(values, torch.linalg.eigvalsh(matrices))
    seconds = take_turns(rivals, HostClock(), rounds=(3, 3))
    benchmark.extra_info.update({f"{name}, s": statistics.median(times) for name, times in seconds.items()})
    benchmark.extra_info.update(
        {f"times faster than {name}": ratio(seconds, name, "ours") for name in list(rivals)[1:]}
    )
    benchmark.pedantic(rivals["ours"], rounds=1)
