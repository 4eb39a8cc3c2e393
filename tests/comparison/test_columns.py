"""Files of more channels than datapoints are read in blocks of columns, once, in little memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import prunecca as pc
from prunecca.comparison import columns

pytestmark = pytest.mark.usefixtures("one_thread")
METRICS = ["linear_cka", "debiased_cka", "nbs", "rsa"]


def exact(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Linear CKA and NBS of the flattened arrays, in NumPy."""
    a, b = (side.double().flatten(1).numpy() for side in (x, y))
    a, b = a - a.mean(0), b - b.mean(0)
    k, m = a @ a.T, b @ b.T
    left, right = (np.linalg.qr(side.T, mode="r") for side in (a, b))
    nbs = np.linalg.norm(left @ right.T, "nuc") / np.sqrt(np.trace(k) * np.trace(m))
    return float((k * m).sum() / np.linalg.norm(k) / np.linalg.norm(m)), float(nbs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("block", [4096, 1 << 20])
def test_files_score_as_numpy_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, block: int
) -> None:
    monkeypatch.setattr(columns, "_BLOCK_BYTES", block)
    monkeypatch.setattr(columns, "_LEAST", 200)
    make = torch.Generator().manual_seed(0)
    x = torch.randn(24, 5, 6, 7, generator=make).to(dtype)
    y = (x.flatten(1)[:, :100].float() + torch.randn(24, 100, generator=make)).to(dtype)
    save_file({"x": x, "y": y}, tmp_path / "both.safetensors")
    seen: list[int] = []
    table = pc.compare_files(
        f"{tmp_path}/both.safetensors:x",
        [f"{tmp_path}/both.safetensors:y", f"{tmp_path}/both.safetensors:x"],
        METRICS,
        layout="flat",
        progress=lambda done, total: seen.append(done),
    )
    values = table.set_index(["candidate", "metric"])["value"]
    cka, nbs = exact(x, y)
    name = f"{tmp_path}/both.safetensors:y"
    assert values[name, "linear_cka"] == pytest.approx(cka, abs=1e-9)
    assert values[name, "nbs"] == pytest.approx(nbs, abs=1e-9)
    assert values[name, "rsa"] == pytest.approx(pc.rsa(x, y, layout="flat"), abs=1e-9)
    own = values[f"{tmp_path}/both.safetensors:x"]
    assert own.to_list() == pytest.approx([1.0] * 4)
    assert set(table["count"]) == {24}
    assert set(table["channels"]) == {210}
    assert seen[-1] == (2 * 210 + 100) * 24 * dtype.itemsize


def test_flat_files_of_many_datapoints(tmp_path: Path) -> None:
    x, y = (np.random.default_rng(k).standard_normal((300, 2, 3, 4)) for k in (0, 1))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x + y)
    table = pc.compare_files(tmp_path / "x.npy", [tmp_path / "y.npy"], ["linear_cka", "hard_matching"], layout="flat")
    cka, _ = exact(torch.from_numpy(x), torch.from_numpy(x + y))
    assert table["value"][0] == pytest.approx(cka, abs=1e-9)
    assert set(table["count"]) == {300}


def test_metrics_of_channels_have_channels(tmp_path: Path) -> None:
    x, y = (np.random.default_rng(k).standard_normal((12, 20)) for k in (0, 1))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    table = pc.compare_files(tmp_path / "x.npy", [tmp_path / "y.npy"], ["hard_matching", "linear_cka"])
    assert table["value"][0] == pytest.approx(pc.hard_matching(x, y), abs=1e-12)
    assert table["value"][1] == pytest.approx(exact(torch.from_numpy(x), torch.from_numpy(y))[0], abs=1e-12)


def test_refusals_name_the_file(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((12, 20))
    np.save(tmp_path / "x.npy", x)
    x[3, 17] = np.nan
    np.save(tmp_path / "bad.npy", x)
    with pytest.raises(ValueError, match=r"bad\.npy holds NaN or infinity, first in channel 17$"):
        pc.compare_files(tmp_path / "x.npy", [tmp_path / "bad.npy"], "nbs")
    np.save(tmp_path / "short.npy", x[:5])
    with pytest.raises(ValueError, match="both must have the same datapoints and positions"):
        pc.compare_files(tmp_path / "x.npy", [tmp_path / "short.npy"], "nbs")
