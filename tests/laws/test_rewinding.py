"""A restored state is whole and does not drift: what implementations get wrong in rewinding."""

from __future__ import annotations

import pytest
import torch
from pitfalls import OPTIMIZERS, digest, network, train
from torch import Tensor

import prunecca as pc

P = pc.pruning


pytestmark = pytest.mark.usefixtures("one_thread")


def test_e_the_stored_state_does_not_drift() -> None:
    model = network()
    optimizer = OPTIMIZERS["adam-l2"](model, {})
    train(model, optimizer, 3)
    snapshot = P.Snapshot.capture(model, optimizer, epoch=3)
    stored = digest(snapshot.model)
    for seed in range(3):
        snapshot.restore(model, optimizer)
        assert digest(model.state_dict()) == stored
        train(model, optimizer, 5, seed)
        assert digest(model.state_dict()) != stored
    assert digest(snapshot.model) == stored


def test_f_rewinding_is_whole() -> None:
    model = network()
    optimizer = OPTIMIZERS["adam-l2"](model, {})
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    train(model, optimizer, 3)
    schedule.step()

    def everything() -> dict[str, Tensor]:
        state = dict(model.state_dict())
        for i, values in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{key}": value for key, value in values.items()}
        state["lr"] = torch.tensor([group["lr"] for group in optimizer.param_groups])
        state["epoch"] = torch.tensor(schedule.last_epoch)
        return state

    assert {"conv1_weight_norm.running_mean", "conv1.bias", "conv1_weight_norm.num_batches_tracked"} <= set(
        everything()
    )
    snapshot = P.Snapshot.capture(model, optimizer, schedule, epoch=3)
    expected = digest(everything())
    train(model, optimizer, 7, seed=1)
    schedule.step()
    assert digest(everything()) != expected
    snapshot.restore(model, optimizer, schedule)
    assert digest(everything()) == expected
