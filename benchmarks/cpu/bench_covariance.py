"""Covariance and SVCCA beside torch and NumPy: every figure is taken in turns with its rivals, results are asserted.

pytest benchmarks/cpu/bench_covariance.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest
import torch

import prunecca as pc
from prunecca.bench import workloads
from prunecca.bench.timing import Contest, Work, run


def show(benchmark, contest: Contest) -> None:
    """Race the rivals, then give pytest-benchmark our call to time and the race as its extra information."""
    outcome = run(contest, seconds=4.0)
    benchmark.extra_info.update({rival: outcome.row(rival) for rival in outcome.seconds})
    benchmark.extra_info.update(
        cpu_level=pc.cpu_level(), threads=torch.get_num_threads(), peak_gflops=statistics.median(outcome.peaks)
    )
    benchmark.pedantic(contest.rivals[contest.ours], rounds=5)


@pytest.mark.benchmark(group="covariance of (N, C), float32")
@pytest.mark.parametrize("channels", [1, 3, 16, 17, 64, 100, 128, 256, 512, 1024, 2048, 4096])
def test_rows(benchmark, channels):
    show(benchmark, workloads.covariance_of_rows(channels))


@pytest.mark.benchmark(group="tiles (AMX) beside vectors, (N, C)")
@pytest.mark.skipif(pc.build_info()["cpu_level_best"] != "amx", reason="not measured: this machine has no AMX")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("channels", [64, 128, 256, 512, 1024, 2048])
def test_tiles(benchmark, channels, dtype):
    rows = workloads.rows_for(channels)
    x = torch.randn(rows, channels, generator=torch.Generator().manual_seed(0)).add_(0.3).relu_().to(dtype)
    accumulator = pc.StreamingCovariance()
    accumulator.update(x)

    def at(level):
        def call():
            pc.set_cpu_level(level)
            accumulator.update(x)

        return call

    rivals = {"prunecca": at("amx"), "prunecca, avx512": at("avx512")}
    work = Work(float(rows) * channels * (channels + 1), x.nbytes, rows)
    try:
        show(benchmark, Contest(rivals, lambda _: {"relative_error": workloads.covariance_error(x)}, work))
    finally:
        pc.set_cpu_level("amx")


@pytest.mark.benchmark(group="covariance of (N, C, H, W), float32")
@pytest.mark.parametrize("shape", [(128, 64, 32, 32), (128, 256, 8, 8), (128, 512, 2, 2)], ids=str)
def test_images(benchmark, shape):
    show(benchmark, workloads.covariance_of_images(shape))


@pytest.mark.benchmark(group="SVCCA of two arrays, float32")
@pytest.mark.parametrize(("rows", "channels"), [(500_000, 64), (100_000, 256)])
def test_svcca(benchmark, rows, channels):
    show(benchmark, workloads.svcca_of_rows(rows, channels))


_PEAK = """
import torch, prunecca as pc
def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
x, y = torch.empty(500_000, 64).normal_(), torch.empty(500_000, 64).normal_()
y[:, :32].add_(x[:, :32])
x[:, 60:], y[:, 62:] = 0.25, 0.0
pc.svcca(x[:1000], y[:1000])  # code that is loaded when first needed does not count
with open("/proc/self/clear_refs", "w") as stream:
    stream.write("5")  # the highest resident memory is counted anew from here
before = status("VmRSS")
print(pc.svcca(x, y).mean, before, status("VmHWM"))
"""


@pytest.mark.benchmark(group="peak memory of SVCCA above its inputs")
def test_memory_of_svcca(benchmark):
    """Two arrays of 500,000 x 64 in a process of their own; the full matrices in float64 would take 512 MB more."""

    def megabytes():
        done = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
        value, before, after = map(float, done.stdout.split())
        assert 0.3 < value < 0.5
        return after - before

    above = benchmark.pedantic(megabytes, rounds=1)
    assert above < 150
    benchmark.extra_info.update({"above the inputs, MB": above})
