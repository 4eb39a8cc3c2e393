"""What masked optimizers share: masks, saved states, schedules, and the arguments they refuse."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from stepping import PAIRS, SHAPES, P, assert_pruned_are_zero, parameters, random_masks, set_gradients
from torch import nn

import prunecca as pc


def test_masks_act_at_once_and_can_be_replaced() -> None:
    weights, masks = parameters(), random_masks()
    optimizer = P.MaskedAdam(weights.items(), {}, lr=0.1)
    set_gradients(weights, 0)
    optimizer.step()
    optimizer.set_masks(masks)
    assert_pruned_are_zero(optimizer, weights)
    assert (weights["d"][masks["d"]] != 0).all()
    more = {n: m & (torch.rand(m.shape) > 0.5) for n, m in masks.items()}
    optimizer.set_masks(more)
    assert_pruned_are_zero(optimizer, weights)


def test_nan_gradients_at_pruned_weights_do_not_pass() -> None:
    weight = torch.randn(100, requires_grad=True)
    mask = torch.arange(100) % 3 > 0
    optimizer = P.MaskedAdam([("w", weight)], {"w": mask}, lr=0.1, weight_decay=0.1)
    weight.grad = torch.where(mask, 1.0, float("nan"))
    optimizer.step()
    assert weight.isfinite().all()
    assert_pruned_are_zero(optimizer, {"w": weight})


@pytest.mark.parametrize("pair", PAIRS)
def test_frozen_weights_stay(level: str, pair: str) -> None:
    kind = P.MaskedAdam if pair.startswith("adam") else P.MaskedSGD
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1, "pruned": "frozen"}
    if kind is P.MaskedSGD:
        options["momentum"] = 0.9
    weights, masks = parameters(), random_masks()
    before = {n: p.detach().clone() for n, p in weights.items()}
    optimizer = kind(weights.items(), masks, **options)
    for step in range(3):
        set_gradients(weights, step)
        optimizer.step()
    for n, mask in masks.items():
        assert torch.equal(weights[n].detach()[~mask], before[n][~mask])
        assert (weights[n].detach()[mask] != before[n][mask]).all()
        moments = [v for k, v in optimizer.state[weights[n]].items() if k != "step"]
        assert all((v[~mask] == 0).all() for v in moments)


def test_parameters_without_gradient_are_left_alone() -> None:
    weights = parameters()
    optimizer = P.MaskedAdam(weights.items(), {}, lr=0.1)
    set_gradients(weights, 0)
    weights["d"].grad = None
    before = weights["d"].detach().clone()
    optimizer.step()
    assert torch.equal(weights["d"].detach(), before)
    assert weights["d"] not in optimizer.state
    set_gradients(weights, 1)
    optimizer.step()
    assert [int(optimizer.state[weights[n]]["step"]) for n in "ad"] == [2, 1]


@pytest.mark.parametrize("pair", PAIRS)
def test_state_dict_round_trips_and_is_torchs(pair: str) -> None:
    make, make_torch = PAIRS[pair]
    weights, masks = parameters(), random_masks()
    first = make(list(weights.items()), masks)
    for step in range(3):
        set_gradients(weights, step)
        first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    copies = {n: p.detach().clone().requires_grad_() for n, p in weights.items()}
    second = make(list(copies.items()), masks)
    second.load_state_dict(saved)
    dense = {n: p.detach().clone().requires_grad_() for n, p in weights.items()}
    theirs = make_torch(list(dense.values()))
    theirs.load_state_dict(saved)
    for run in (weights, copies, dense):
        set_gradients(run, 7)
    first.step()
    second.step()
    theirs.step()
    for n in SHAPES:
        assert torch.equal(weights[n], copies[n])
        where = masks.get(n, torch.ones(SHAPES[n], dtype=torch.bool))
        torch.testing.assert_close(weights[n].detach()[where], dense[n].detach()[where], rtol=1e-5, atol=1e-6)


def test_loading_torchs_dense_state_masks_it() -> None:
    weights, masks = parameters(), random_masks()
    theirs = torch.optim.Adam(weights.values(), lr=0.5, weight_decay=0.25)
    set_gradients(weights, 0)
    theirs.step()
    ours = P.MaskedAdam(weights.items(), masks)
    ours.load_state_dict(theirs.state_dict())
    assert_pruned_are_zero(ours, weights)
    assert ours.param_groups[0]["lr"] == 0.5
    assert (theirs.state[weights["d"]]["exp_avg"] != 0).all()  # a copy: the source stays as it was
    set_gradients(weights, 1)
    ours.step()
    assert int(theirs.state[weights["d"]]["step"]) == 1


def test_loading_keeps_float32_moments_of_half_weights() -> None:
    weights = parameters(torch.bfloat16)
    optimizer = P.MaskedAdam(weights.items(), random_masks())
    set_gradients(weights, 0)
    optimizer.step()
    twin = P.MaskedAdam(weights.items(), random_masks())
    twin.load_state_dict(optimizer.state_dict())
    for p in weights.values():
        assert twin.state[p]["exp_avg"].dtype == torch.float32
        keep = twin.state[p]["exp_avg"] != 0
        assert torch.equal(twin.state[p]["exp_avg"][keep], optimizer.state[p]["exp_avg"][keep])


def test_amsgrad_states_are_refused() -> None:
    weights = parameters()
    state = torch.optim.Adam(weights.values(), amsgrad=True).state_dict()
    with pytest.raises(ValueError, match="saved with amsgrad=True"):
        P.MaskedAdam(weights.items()).load_state_dict(state)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_like_the_original(how: str) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    masks = P.prune(model, P.pools_by_type(model, include_output=True), {"conv": 0.0, "fc": 0.4})
    optimizer = P.MaskedAdam(model.named_parameters(), masks, lr=0.1)
    x = torch.randn(4, 6)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()

    train(model, optimizer)
    pair = (model, optimizer)
    twin = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    train(*pair)
    train(*twin)
    for p, q in zip(model.parameters(), twin[0].parameters(), strict=True):
        assert torch.equal(p, q)
    assert_pruned_are_zero(twin[1], dict(twin[0].named_parameters()))
    assert set(twin[1].masks) == set(masks)


def test_learning_rate_schedules() -> None:
    weight = torch.zeros(3, requires_grad=True)
    optimizer = P.MaskedSGD([("w", weight)], lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    for expected in (-1.0, -1.1, -1.11):
        weight.grad = torch.ones(3)
        optimizer.step()
        schedule.step()
        torch.testing.assert_close(weight.detach(), torch.full((3,), expected))


def test_parameter_groups_have_their_own_rates() -> None:
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    groups = [{"params": [("a", a)], "lr": 1.0}, {"params": [("b", b)]}]
    optimizer = P.MaskedSGD(groups, {"b": torch.tensor([True, False])}, lr=0.5)
    a.grad, b.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    assert a.tolist() == [-1.0, -1.0]
    assert b.tolist() == [-0.5, 0.0]


def test_closure_is_evaluated_with_gradients() -> None:
    weight = torch.ones(2, requires_grad=True)
    optimizer = P.MaskedSGD([("w", weight)], lr=0.25)

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 2.0
    assert weight.tolist() == [0.5, 0.5]


def test_clipping_sees_the_network_that_is_left() -> None:
    weights, masks = parameters(), random_masks()
    optimizer = P.MaskedAdam(weights.items(), masks)
    set_gradients(weights, 3)
    everything = [p.grad[masks[n]] if n in masks else p.grad.ravel() for n, p in weights.items()]
    expected = torch.cat(everything).norm()
    dense = torch.cat([p.grad.ravel() for p in weights.values()]).norm()
    assert dense > expected * 1.1
    torch.testing.assert_close(optimizer.clip_gradients(1.5), expected)
    clipped = torch.cat([p.grad.ravel() for p in weights.values()]).norm()
    torch.testing.assert_close(clipped, torch.tensor(1.5), rtol=1e-4, atol=0)
    for n, mask in masks.items():
        assert (weights[n].grad[~mask] == 0).all()


def test_autograd_notices_the_step() -> None:
    weight = torch.ones(2, requires_grad=True)
    loss = weight.square().sum()
    weight.grad = torch.ones(2)
    P.MaskedSGD([("w", weight)], lr=0.25).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_wrong_arguments() -> None:
    weights = parameters()
    named = list(weights.items())
    with pytest.raises(TypeError, match="without names; expected pairs"):
        P.MaskedAdam(list(weights.values()))
    with pytest.raises(ValueError, match="lr is -1; expected a number of at least 0"):
        P.MaskedAdam(named, lr=-1)
    with pytest.raises(ValueError, match=r"betas are \(0.9, 1.0\)"):
        P.MaskedAdam(named, betas=(0.9, 1.0))
    with pytest.raises(ValueError, match=r"nesterov was asked for with momentum 0\.0"):
        P.MaskedSGD(named, nesterov=True)
    with pytest.raises(ValueError, match="expected 'zero' or 'frozen'"):
        P.MaskedAdam(named, pruned="gone")
    with pytest.raises(ValueError, match="mask 'z' names no parameter of this optimizer"):
        P.MaskedAdam(named, {"z": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"mask 'c' has shape \(64,\); expected that of its parameter, \(65,\)"):
        P.MaskedAdam(named, {"c": torch.ones(64, dtype=torch.bool)})
    with pytest.raises(ValueError, match="parameter name 'a' was given twice"):
        P.MaskedAdam([{"params": [("a", weights["a"])]}, {"params": [("a", weights["b"])]}])


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(10, 3, sparse=True)
    optimizer = P.MaskedAdam(table.named_parameters())
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TypeError, match="gradient of 'weight' is sparse"):
        optimizer.step()


def test_weights_with_gaps_are_refused() -> None:
    weight = torch.zeros(4, 8)[:, ::2].requires_grad_()
    optimizer = P.MaskedAdam([("w", weight)])
    weight.grad = torch.ones(4, 4)
    with pytest.raises(ValueError, match="memory has gaps"):
        optimizer.step()


def test_thread_count_and_level_do_not_change_a_bit() -> None:
    masks, results = random_masks(), []
    threads, before = torch.get_num_threads(), pc.cpu_level()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.manual_seed(1)
            weights = parameters()
            optimizer = P.MaskedAdam(weights.items(), masks, lr=0.1, weight_decay=0.1)
            for step in range(3):
                set_gradients(weights, step)
                optimizer.step()
            results.append(weights)
    finally:
        torch.set_num_threads(threads)
        pc.set_cpu_level(before)
    for other in results[1:]:
        assert all(torch.equal(other[n], results[0][n]) for n in SHAPES)
