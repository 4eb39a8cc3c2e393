"""compare() on two processes (gloo): the table of one process, on both; failures reach both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from networks import IMAGES, network

import prunecca as pc

METRICS = ["svcca", "linear_cka", "debiased_cka", "nbs"]
CANDIDATES = {"a": 1, "b": 2}


def _compare(images: Any, size: int = 8, **options: Any) -> pd.DataFrame:
    others = {name: network(seed) for name, seed in CANDIDATES.items()}
    return pc.compare(network(), others, images.split(size), metrics=METRICS, **options).table


def _failure(rank: int) -> str:
    images = IMAGES.clone()
    if rank == 1:
        images[12] = torch.nan  # in batch 1, which is this rank's share
    try:
        _compare(images)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    out = Path(folder)
    _compare(IMAGES).to_parquet(out / f"shard{rank}")
    _compare(IMAGES, max_datapoints=37).to_parquet(out / f"some{rank}")
    _compare(IMAGES[:8]).to_parquet(out / f"one{rank}")  # rank 1 has no batch
    mine = IMAGES[:40] if rank == 0 else IMAGES[40:]
    _compare(mine, distributed="sharded").to_parquet(out / f"sharded{rank}")
    _compare(mine if rank == 0 else mine[:0], distributed="sharded").to_parquet(out / f"half{rank}")
    _compare(mine, distributed="off").to_parquet(out / f"off{rank}")
    (out / f"failure{rank}").write_text(_failure(rank))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(_on_rank, (str(path),), nprocs=2)
    return path


@pytest.mark.parametrize(
    ("name", "images", "options", "tolerance"),
    [
        ("shard", IMAGES, {}, 1e-10),
        ("some", IMAGES, {"max_datapoints": 37}, 1e-10),
        ("one", IMAGES[:8], {}, 1e-10),
        ("sharded", IMAGES, {}, 1e-6),  # shifts differ, so float32 products do
        ("half", IMAGES[:40], {}, 1e-10),
    ],
)
def test_both_ranks_have_the_table_of_one_process(
    folder: Path, name: str, images: torch.Tensor, options: dict[str, Any], tolerance: float
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = _compare(images, **options)
    torch.set_num_threads(threads)
    for rank in (0, 1):
        found = pd.read_parquet(folder / f"{name}{rank}")
        pd.testing.assert_frame_equal(found.drop(columns="value"), expected.drop(columns="value"))
        assert (found["value"] - expected["value"]).abs().max() < tolerance


def test_off_compares_each_share_by_itself(folder: Path) -> None:
    counts = [
        pd.read_parquet(folder / f"off{rank}").query("layer == '8'")["count"].unique().tolist() for rank in (0, 1)
    ]
    assert counts == [[40], [20]]


def test_a_failure_on_one_rank_is_raised_on_both(folder: Path) -> None:
    other, own = ((folder / f"failure{rank}").read_text() for rank in (0, 1))
    assert own.startswith("ValueError: layer '2' of the reference, batch 1: ")
    assert other.startswith("RuntimeError: the comparison failed on rank 1: layer '2' of the reference, batch 1: ")
