"""Covariance and SVCCA beside torch and NumPy: every figure is taken in turns with its rivals, results are asserted.

pytest benchmarks/bench_covariance.py
"""

from __future__ import annotations

import statistics

import pytest
import torch

import prunecca as pc
from prunecca import contests
from prunecca.race import Contest, run


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
    show(benchmark, contests.covariance_of_rows(channels))


@pytest.mark.benchmark(group="covariance of (N, C, H, W), float32")
@pytest.mark.parametrize("shape", [(128, 64, 32, 32), (128, 256, 8, 8), (128, 512, 2, 2)], ids=str)
def test_images(benchmark, shape):
    show(benchmark, contests.covariance_of_images(shape))


@pytest.mark.benchmark(group="SVCCA of two arrays, float32")
@pytest.mark.parametrize(("rows", "channels"), [(500_000, 64), (100_000, 256)])
def test_svcca(benchmark, rows, channels):
    show(benchmark, contests.svcca_of_rows(rows, channels))
