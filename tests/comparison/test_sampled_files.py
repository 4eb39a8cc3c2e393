"""Stored activations by metrics that need rows: the same subsample of every file, whatever the chunks and threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prunecca as pc
from prunecca.comparison import files as stored_files
from prunecca.geometry.reservoir import Reservoir

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS = ["rbf_cka", "spearman_rsa", "mutual_knn", "cknna", "jaccard"]


@pytest.fixture
def pair() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 6))
    return x, x @ rng.standard_normal((6, 4)) + 0.3 * rng.standard_normal((600, 4))


def saved(folder: Path, *arrays: np.ndarray[Any, Any]) -> list[str]:
    names = [f"{folder}/{k}.npy" for k in range(len(arrays))]
    for name, array in zip(names, arrays, strict=True):
        np.save(name, array)
    return names


def test_few_rows_are_all_taken(tmp_path: Path, pair: Any) -> None:
    x, y = pair
    files = saved(tmp_path, x, y)
    metrics = {
        "svcca": {},
        **{name: {} for name in ROWS},
        "nbs": {},
        "near": ("mutual_knn", {"k": 3, "distance": "cosine"}),
    }
    table = pc.compare_files(files[0], files[1:], metrics)
    assert table["metric"].tolist() == list(metrics)
    assert table["sampled"].isna().tolist() == [name in ("svcca", "nbs") for name in metrics]
    assert set(table["sampled"].dropna()) == {600}
    found = table.set_index("metric")["value"]
    for name in ROWS:
        assert found[name] == pytest.approx(pc.METRICS[name](x, y), abs=1e-12)
    assert found["near"] == pytest.approx(pc.mutual_knn(x, y, k=3, distance="cosine"), abs=1e-12)
    assert found["svcca"] == pytest.approx(pc.svcca(x, y).mean)


@pytest.mark.parametrize(
    ("shape", "layout"), [((600, -1), "nc"), ((100, -1, 6), "ncl"), ((100, 6, -1), "nlc"), ((50, 4, 3, -1), "nhwc")]
)
def test_the_subsample_is_the_same_of_all_files(
    tmp_path: Path, pair: Any, shape: tuple[int, ...], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = (side.reshape(shape) for side in pair)
    files = saved(tmp_path, x, y, y[..., ::-1] if layout != "ncl" else y)
    reservoir = Reservoir(100)
    reservoir.choose(600)
    kept = np.sort(reservoir.positions)
    axis = layout.index("c")
    rows = [np.moveaxis(np.load(name), axis, -1) for name in files]
    rows = [side.reshape(-1, side.shape[-1])[kept] for side in rows]
    defaults = stored_files._covariances.__kwdefaults__
    for chunk, drawn, threads in ((3000, 1 << 20, 1), (10_000, 7, 2), (1 << 20, 100, 2)):
        monkeypatch.setattr(stored_files._covariances, "__kwdefaults__", {**defaults, "chunk_bytes": chunk})
        monkeypatch.setattr(stored_files, "_DRAWN", drawn)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        table = pc.compare_files(files[0], files[1:], ["mutual_knn", "rbf_cka"], layout=layout, subsample=100)
        torch.set_num_threads(before)
        expected = [metric(rows[0], other) for other in rows[1:] for metric in (pc.mutual_knn, pc.rbf_cka)]
        assert table["value"].tolist() == pytest.approx(expected, abs=1e-12)
        assert table["sampled"].tolist() == [100] * 4
        assert set(table["count"]) == {600}


def test_what_cannot_be_sampled_is_refused(tmp_path: Path, pair: Any) -> None:
    x, y = pair
    files = saved(tmp_path, x, y, np.where(np.arange(600)[:, None] == 599, np.nan, y), y[:-1])
    with pytest.raises(ValueError, match="a reservoir of 0 rows was asked for"):
        pc.compare_files(files[0], files[1:2], "mutual_knn", subsample=0)
    with pytest.raises(ValueError, match="NaN or infinity"):  # in a row that is not sampled, too
        pc.compare_files(files[0], files[2:3], "mutual_knn", subsample=20)
    with pytest.raises(ValueError, match="both must have the same datapoints"):
        pc.compare_files(files[0], files[3:], "mutual_knn")
    with pytest.raises(ValueError, match="k is 10; expected 1 or more, and fewer than the 8 rows"):
        pc.compare_files(files[0], files[1:2], "mutual_knn", subsample=8)
