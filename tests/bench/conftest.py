"""The folder of the benchmarks is importable, as it is for ``python -m benchmarks.cuda.run``."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


@pytest.fixture
def bench():
    """The host in place of a device."""
    from benchmarks.cuda.clock import Bench, wall_clock

    return Bench(torch.device("cpu"), wall_clock(), wall_clock(), copy=1e10, seconds=0.0)


@pytest.fixture
def make_row():
    """Rows of two rivals and three rounds."""
    from benchmarks.cuda.table import Row

    def make(**changes):
        seconds = {"prunecca": [2e-4, 1e-4, 9e-4], "torch": [8e-4, 2e-4, 1.8e-3]}
        return Row(**{"what": "it", "seconds": seconds, "bytes": 1e6, "copy": 1e10, **changes})

    return make
