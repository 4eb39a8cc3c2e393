"""Shared fixtures, and the summary that says which hardware or data tests were not run."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import prunecca as pc

_NEEDS = {
    "cuda": ("a CUDA device", "PRUNECCA_REQUIRE_CUDA"),
    "nvcc": ("the CUDA compiler nvcc", "PRUNECCA_REQUIRE_NVCC"),
    "chromium": ("the browser Chromium (Debian's package chromium)", "PRUNECCA_REQUIRE_CHROMIUM"),
    "cifar10": ("CIFAR-10 in the folder named by PRUNECCA_DATA", "PRUNECCA_REQUIRE_DATA"),
}
_LEVELS = ["baseline", "avx2", "avx512"]
_AMX = os.environ.get("PRUNECCA_REQUIRE_AMX", "") not in ("", "0")
_not_run: Counter[str] = Counter()


def _has(need: str) -> bool:
    if need == "cuda":
        return torch.cuda.is_available()
    if need in ("nvcc", "chromium"):
        return shutil.which(need) is not None
    data = os.environ.get("PRUNECCA_DATA", "")
    return bool(data) and (Path(data) / "cifar-10-batches-py" / "data_batch_1").is_file()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # A test that was promised its hardware fails without it, instead of being skipped.
    kept, dropped = [], []
    missing = {
        need for need, (_, promise) in _NEEDS.items() if not _has(need) and os.environ.get(promise, "") in ("", "0")
    }
    for item in items:
        needs = missing.intersection(mark.name for mark in item.iter_markers())
        for need in needs:
            _not_run[need] += 1
        (dropped if needs else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for need, count in sorted(_not_run.items()):
        what, promise = _NEEDS[need]
        terminalreporter.write_line(
            f"NOT RUN: {count} tests marked '{need}' need {what} ({promise}=1 makes them fail instead)"
        )
    if not _AMX:
        terminalreporter.write_line(
            "NOT RUN: the CPU level 'amx', which needs a CPU with AMX (PRUNECCA_REQUIRE_AMX=1 runs it); its stand-in was run"
        )


def levels() -> list[str]:
    """The SIMD levels that this machine has and the tests were promised."""
    best = str(pc.build_info()["cpu_level_best"])
    found = _LEVELS if best not in _LEVELS else _LEVELS[: _LEVELS.index(best) + 1]
    return [*found, "amx"] if _AMX else found


@pytest.fixture(params=[*levels(), "amx_emulated"])
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every SIMD level that this machine has, in turns, and the stand-in of the one that few have."""
    before = pc.cpu_level()
    pc.set_cpu_level(request.param)
    yield request.param
    pc.set_cpu_level(before)


@pytest.fixture
def cifar10_folder() -> Path:
    return Path(os.environ["PRUNECCA_DATA"])


@pytest.fixture(scope="session")
def cuda_host_folder(request: pytest.FixtureRequest) -> Path:
    """Where the emulated CUDA kernels are kept once they are built."""
    return Path(request.config.cache.mkdir("cuda_host"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small problems on one thread: on a busy machine, threads that wait for each other take most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
