"""compare() on two processes (gloo): the table of one process, on both; failures reach both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from networks import IMAGES, network
from torch import nn

import prunecca as pc
from prunecca.covariance.distributed import digests

METRICS = ["svcca", "linear_cka", "debiased_cka", "nbs"]
CANDIDATES = {"a": 1, "b": 2}


def _compare(images: Any, size: int = 8, **options: Any) -> pd.DataFrame:
    others = {name: network(seed) for name, seed in CANDIDATES.items()}
    return pc.compare(network(), others, images.split(size), metrics=METRICS, **options).table


RULED = torch.rand(60, generator=torch.Generator().manual_seed(1)) < 0.8
# What every way of comparing gives on two processes, and how near it is to one: samples lie in another order.
WAYS: dict[str, tuple[dict[str, Any], float]] = {
    # Ranks join other small batches than one process does, and float32 products are rounded accordingly.
    "all": ({"pairs": "all", "resize": "pool"}, 1e-7),
    "rounds": ({"pairs": "all", "resize": "pool", "budget": 2000}, 1e-7),
    "mean": ({"pairs": "all", "points": "mean", "metrics": ["linear_cka"]}, 1e-10),
    "rows": ({"pairs": "all", "points": "mean", "rows": RULED, "metrics": ["linear_cka"]}, 1e-10),
    "sample": ({"metrics": ["mutual_knn", "linear_cka"], "points": "mean", "pairs": "all"}, 1e-6),
    "sample same": ({"metrics": ["mutual_knn", "rbf_cka"], "points": "mean"}, 1e-6),
    "batches": ({"metrics": ["minibatch_cka"]}, 1e-10),
}
# Chance levels are drawn on each rank by itself, and agree between the ranks alone.
DRAWN: dict[str, dict[str, Any]] = {
    "chance": {"chance": "permutation", "metrics": ["linear_cka", "mutual_knn"], "points": "mean"},
    "chance all": {"chance": "permutation", "metrics": ["linear_cka"], "pairs": "all", "points": "mean"},
}


def _way(**options: Any) -> pd.DataFrame:
    others = {name: network(seed) for name, seed in CANDIDATES.items()}
    given = {"metrics": METRICS} | options
    return pc.compare(network(), others, IMAGES.split(8), ["2", "5", "8"], **given).table


def _failure(rank: int) -> str:
    images = IMAGES.clone()
    if rank == 1:
        images[12] = torch.nan  # in batch 1, which is this rank's share
    try:
        _compare(images)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _network(seed: int = 0, width: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


def _faulty(rank: int) -> dict[str, Callable[[], Any]]:
    """Calls whose arguments are not the same on rank 1."""
    rows, second = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), rank == 1
    reference, candidate = _network(), _network(1)
    swapped, averaged = copy.deepcopy(candidate), copy.deepcopy(candidate)
    with torch.no_grad():
        if second:
            swapped[0].weight[[1, 4]] = swapped[0].weight[[4, 1]]
            averaged[1].running_mean[2] = 1e-7

    def broken() -> Iterator[torch.Tensor]:
        if second:
            raise OSError("the disk is gone")
        yield rows

    def late() -> Iterator[torch.Tensor]:
        yield rows
        if second:
            raise OSError("the disk is gone")

    return {
        "weights": lambda: pc.compare(reference, {"a": candidate, "b": _network(2 + rank)}, rows),
        "rows": lambda: pc.compare(reference, swapped, rows),
        "buffers": lambda: pc.compare(averaged, candidate, rows),
        "width": lambda: pc.compare(reference, _network(1, 10 + rank), rows),
        "names": lambda: pc.compare(reference, {f"run{rank}": candidate}, rows),
        "layers": lambda: pc.compare(reference, candidate, rows, layers=["2", "0"][rank]),
        "shuffled": lambda: pc.compare(reference, candidate, rows[torch.randperm(40)].split(8)),
        "lengths": lambda: pc.compare(reference, candidate, rows[: 40 - rank]),
        "sharded weights": lambda: pc.compare(reference, _network(2 + rank), rows, distributed="sharded"),
        "no module": lambda: pc.compare(reference, 3 if second else candidate, rows),
        "no loader": lambda: pc.compare(reference, candidate, broken()),
        "no second batch": lambda: pc.compare(reference, candidate, late()),
        "flatten": lambda: pc.compare(reference, candidate, rows.split(8), points="flatten"),
        "no batch": lambda: pc.compare(reference, candidate, rows[:0] if second else rows),
    }


DIFFER = "between rank 0 and rank 1"
SAME_STATE = "load the same state on all of them, or compare with distributed='off'"
SAME_DATA = (
    "with distributed='shard' every rank is given the same batches in the same order: shuffle them by the same seed, "
    "or pass distributed='sharded' where each rank has its own share"
)
SENTENCES = {  # of both ranks, or of each
    "weights": f"ValueError: the weights of candidate 'b' differ {DIFFER}, first in '0.weight'; {SAME_STATE}",
    "rows": f"ValueError: the weights of candidate 'candidate' differ {DIFFER}, first in '0.weight'; {SAME_STATE}",
    "buffers": f"ValueError: the weights of the reference differ {DIFFER}, first in '1.running_mean'; {SAME_STATE}",
    "width": f"ValueError: the architectures of candidate 'candidate' differ {DIFFER}: '0.weight' is torch.float32 (10, 6), "
    "and torch.float32 (11, 6); expected the same models on all ranks",
    "names": f"ValueError: the candidates differ {DIFFER}: the reference, candidate 'run0', and the reference, candidate "
    "'run1'; expected the same models",
    "layers": f"ValueError: the layers differ {DIFFER}: 2, and 0; expected the same",
    "shuffled": f"ValueError: the first batches differ {DIFFER}; {SAME_DATA}",
    "lengths": f"ValueError: the first batches differ {DIFFER}; {SAME_DATA}",
    "sharded weights": f"ValueError: the weights of candidate 'candidate' differ {DIFFER}, first in '0.weight'; {SAME_STATE}",
    "flatten": (
        "ValueError: points='flatten' compares on one process, which needs all datapoints; expected distributed='off'"
    ),
    "no module": (
        "RuntimeError: the comparison failed on rank 1: candidates is a int; expected a module, a list of modules or "
        "modules by name",
        "TypeError: candidates is a int; expected a module, a list of modules or modules by name",
    ),
    "no loader": ("RuntimeError: the comparison failed on rank 1: the disk is gone", "OSError: the disk is gone"),
    "no second batch": ("RuntimeError: the comparison failed on rank 1: the disk is gone", "OSError: the disk is gone"),
}


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
    for name, (options, _) in WAYS.items():
        _way(**options).to_parquet(out / f"way {name}{rank}")
    for name, options in DRAWN.items():
        _way(**options).to_parquet(out / f"way {name}{rank}")
    (out / f"failure{rank}").write_text(_failure(rank))
    torch.manual_seed(rank)
    for name, call in _faulty(rank).items():
        try:
            call()
            said = "none"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        (out / f"{name}{rank}.txt").write_text(said)
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


@pytest.mark.parametrize("name", WAYS)
def test_every_way_of_comparing_gives_the_table_of_one_process(folder: Path, name: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    options, tolerance = WAYS[name]
    expected = _way(**options)
    torch.set_num_threads(threads)
    for rank in (0, 1):
        found = pd.read_parquet(folder / f"way {name}{rank}")
        pd.testing.assert_frame_equal(found.drop(columns="value"), expected.drop(columns="value"))
        assert (found["value"] - expected["value"]).abs().max() < tolerance


@pytest.mark.parametrize("name", DRAWN)
def test_chance_levels_are_the_same_on_both_ranks(folder: Path, name: str) -> None:
    found, other = (pd.read_parquet(folder / f"way {name}{rank}") for rank in (0, 1))
    pd.testing.assert_frame_equal(found, other)
    plain = _way(**{key: value for key, value in DRAWN[name].items() if key != "chance"})
    assert (found["value"] - plain["value"]).abs().max() < 1e-6
    cka = found[found["metric"] == "linear_cka"]
    assert cka["chance"].mean() < 0.3  # of 60 rows and 6 to 10 channels


def test_off_compares_each_share_by_itself(folder: Path) -> None:
    counts = [
        pd.read_parquet(folder / f"off{rank}").query("layer == '8'")["count"].unique().tolist() for rank in (0, 1)
    ]
    assert counts == [[40], [20]]


def test_a_failure_on_one_rank_is_raised_on_both(folder: Path) -> None:
    other, own = ((folder / f"failure{rank}").read_text() for rank in (0, 1))
    assert own.startswith("ValueError: layer '2' of the reference, batch 1: ")
    assert other.startswith("RuntimeError: the comparison failed on rank 1: layer '2' of the reference, batch 1: ")


@pytest.mark.parametrize("name", SENTENCES)
def test_ranks_that_do_not_compare_the_same_say_so_on_all(folder: Path, name: str) -> None:
    expected = SENTENCES[name]
    said = tuple((folder / f"{name}{rank}.txt").read_text() for rank in (0, 1))
    assert said == ((expected, expected) if isinstance(expected, str) else expected)


def test_a_rank_without_data_takes_the_layers_of_the_others(folder: Path) -> None:
    assert [(folder / f"no batch{rank}.txt").read_text() for rank in (0, 1)] == ["none", "none"]


def test_digests_tell_any_two_states_apart() -> None:
    x = torch.randn(2048, 33, generator=torch.Generator().manual_seed(0))
    states = [x.clone() for _ in range(6)]
    states[1][7, 5] = torch.nextafter(x[7, 5], torch.tensor(9.0))
    states[2][[3, 1012]] = x[[1012, 3]]
    states[3] = x[:, torch.randperm(33, generator=torch.Generator().manual_seed(1))]
    states[4] = x.view(33, 2048)
    states[5] = x.view(torch.int32)
    assert len({digests({"x": state})["x"] for state in states}) == 6
    same = [x.T.contiguous().T, torch.cat([x.new_zeros(1), x.flatten()])[1:].view(2048, 33), nn.Parameter(x)]
    assert {digests({"x": state})["x"] for state in same} == {digests({"x": x})["x"]}


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(3, dtype=torch.bool),
        torch.tensor(3),
        torch.ones(2, 0),
        torch.ones(5, dtype=torch.complex64).conj(),
        torch.eye(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.ones(1030, dtype=torch.bfloat16),
    ],
    ids=lambda x: str(x.dtype),
)
def test_every_kind_of_tensor_has_a_digest(x: torch.Tensor) -> None:
    assert digests({"x": x}) == digests({"x": x.clone()})
