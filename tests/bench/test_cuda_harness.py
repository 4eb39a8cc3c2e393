"""The harness that runs the emulation's programs on a device, with the runtime of a device played by the host."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulated.build import HERE, ROOT, EmulationError, compiler, run

HARNESS = ROOT / "benchmarks" / "cuda" / "harness"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of masks, as it is built for a device: a copy, which finds the device's harness."""
    folder = tmp_path_factory.mktemp("harness")
    source = shutil.copyfile(HERE / "masks.cpp", folder / "masks.cpp")
    words = [compiler(), "-std=c++20", "-O0", "-DPRUNECCA_CUDA_EMULATION", f"-I{ROOT / 'csrc'}", f"-I{HARNESS}"]
    words += [f"-I{HERE}", "-include", str(HERE / "device_runtime.hpp"), str(source), "-o", str(folder / "masks")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    return folder / "masks"


def _count(program: Path, kept: np.ndarray, offset: int = 0) -> int:
    return int(run(program, [1, 1, 1, len(kept), offset, 1], [kept, np.zeros(1, np.int64)])[1][0])


def _replay(program: Path, record: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PRUNECCA_RECORD"}
    environment["PRUNECCA_REQUESTS"] = str(record)
    return subprocess.run([str(program)], capture_output=True, text=True, env=environment)


def test_requests_are_recorded_and_replayed(program, tmp_path, monkeypatch):
    record = tmp_path / "record"
    monkeypatch.setenv("PRUNECCA_RECORD", str(record))
    other = shutil.copy(program, tmp_path / "masks")  # a server of its own, which sees the variable
    kept = (np.arange(5000) % 3 == 0).astype(np.uint8)
    assert _count(other, kept) == kept.sum()
    assert _count(other, kept) == kept.sum()
    assert _count(other, 1 - kept) == 5000 - kept.sum()
    done = _replay(program, record)
    assert (done.returncode, done.stdout) == (0, "2 requests, 0 refused\n"), "each but once"


def test_a_refusal_is_told_as_the_emulation_tells_it_and_ends_no_replay(program, tmp_path, monkeypatch):
    record = tmp_path / "record"
    monkeypatch.setenv("PRUNECCA_RECORD", str(record))
    other = shutil.copy(program, tmp_path / "masks")
    kept = np.ones(9, np.uint8)
    with pytest.raises(EmulationError, match="cuda error 1"):
        run(other, [0, 3, 1, 1, 0, 1], [kept[:3], kept[:1], kept[:1]])  # elements of three bytes
    assert _count(other, kept) == 9
    done = _replay(program, record)
    assert (done.returncode, done.stdout) == (0, "2 requests, 1 refused\n"), done.stderr
