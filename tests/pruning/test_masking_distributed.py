"""Masks under DistributedDataParallel, on two processes (gloo): the same network on both, its masked weights zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

import prunecca as pc

P = pc.pruning
X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


def _masked_sgd(ddp: nn.Module, masks: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.05, momentum=0.9)
    P.masked(optimizer, masks, ddp)
    return optimizer


def _adam(ddp: nn.Module, masks: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
    return P.MaskedAdam(ddp.module.named_parameters(), masks, lr=0.01)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))


def _said(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for make in (_masked_sgd, _adam):
        ddp = nn.parallel.DistributedDataParallel(_network())
        masks = P.prune(ddp.module, P.pools_by_type(ddp.module, include_output=True), {"conv": 0.0, "fc": 0.5})
        optimizer = make(ddp, masks)
        for _ in range(5):
            optimizer.zero_grad()
            ddp(X[rank::2]).square().mean().backward()
            optimizer.step()
        found[make.__name__] = {"masks": masks, "state": ddp.module.state_dict()}
    other = {"0.weight": torch.ones(9, 6).bool(), "2.weight": torch.full((3, 9), rank == 0)}
    found["differ"] = _said(lambda: _masked_sgd(ddp, other))
    mesh = init_device_mesh("cpu", (2,))
    sharded = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)]))
    optimizer = torch.optim.SGD([("w", sharded)], lr=0.1)
    found["sharded"] = _said(lambda: P.masked(optimizer, {"w": torch.ones(4, 4).bool()}))
    torch.save(found, Path(folder) / f"found{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(_on_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"found{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("optimizer", ["_masked_sgd", "_adam"])
def test_both_ranks_hold_the_same_masked_network(found: list[dict[str, Any]], optimizer: str) -> None:
    first, second = (rank[optimizer] for rank in found)
    for part in ("masks", "state"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
    # On one process, from the whole batch: the mean of both gradients.
    model = _network()
    masks = P.prune(model, P.pools_by_type(model, include_output=True), {"conv": 0.0, "fc": 0.5})
    one = (
        P.MaskedAdam(model.named_parameters(), masks, lr=0.01)
        if optimizer == "_adam"
        else torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)
    )
    P.masked(one, masks)
    for _ in range(5):
        one.zero_grad()
        model(X).square().mean().backward()
        one.step()
    for name, value in model.state_dict().items():
        assert torch.equal(first["masks"][name], masks[name])
        assert torch.equal(first["state"][name] != 0, masks[name])
        torch.testing.assert_close(first["state"][name], value, rtol=1e-4, atol=1e-5)


def test_masks_that_differ_and_sharded_weights_are_refused_on_both(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank["differ"] == (
            "ValueError: mask '2.weight' differs between rank 0 and rank 1; prune the same weights with the same seed on "
            "all ranks, or send the masks of one rank to the others"
        )
        assert rank["sharded"].startswith(
            "TypeError: parameter 'w' is a DTensor, whose parts lie on several ranks; expected"
        )
