"""MaskedAdam and MaskedSGD against torch.optim on the network that is left."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning
LEVELS = ["baseline", "avx2", "avx512"]
LEVELS = LEVELS[: LEVELS.index(str(pc.build_info()["cpu_level_best"])) + 1]
Make = Callable[[list[tuple[str, Tensor]], dict[str, Tensor]], torch.optim.Optimizer]
SHAPES = {"a": (7, 5, 3, 3), "b": (), "c": (65,), "d": (129, 257), "e": (0, 4)}

# Ours, and the optimizer of torch that it must equal on the entries that are kept.
PAIRS: dict[str, tuple[Make, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "adam": (lambda p, m: P.MaskedAdam(p, m, lr=1e-2), lambda p: torch.optim.Adam(p, lr=1e-2)),
    "adam-l2": (
        lambda p, m: P.MaskedAdam(p, m, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
    "adamw": (
        lambda p, m: P.MaskedAdam(p, m, lr=1e-2, weight_decay=0.1, decoupled_weight_decay=True),
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    ),
    "sgd": (lambda p, m: P.MaskedSGD(p, m, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "sgd-momentum-l2": (
        lambda p, m: P.MaskedSGD(p, m, lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.05),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.05),
    ),
    "sgd-nesterov": (
        lambda p, m: P.MaskedSGD(p, m, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05),
    ),
}


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = pc.cpu_level()
    pc.set_cpu_level(request.param)
    yield request.param
    pc.set_cpu_level(before)


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: torch.randn(shape).to(dtype).requires_grad_() for name, shape in SHAPES.items()}


def random_masks() -> dict[str, Tensor]:
    return {name: torch.rand(shape) > 0.4 for name, shape in SHAPES.items() if name != "c"}  # c: trained unmasked


def set_gradients(weights: dict[str, Tensor], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for p in weights.values():
        p.grad = torch.randn(p.shape, generator=g).to(p.dtype)


def assert_pruned_are_zero(optimizer: torch.optim.Optimizer, weights: dict[str, Tensor]) -> None:
    for name, mask in optimizer.masks.items():
        for tensor in [weights[name], *optimizer.state[weights[name]].values()]:
            if tensor.shape == mask.shape and tensor is not optimizer.state[weights[name]].get("step"):
                gone = tensor.detach()[~mask]
                assert (gone == 0).all()
                assert not gone.signbit().any()


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_equals_torch_on_the_sub_network(level: str, pair: str, dtype: torch.dtype, tolerance: float) -> None:
    make, make_torch = PAIRS[pair]
    weights, masks = parameters(dtype), random_masks()
    masks_or_all = {n: masks.get(n, torch.ones(p.shape, dtype=torch.bool)) for n, p in weights.items()}
    left = {n: p.detach()[masks_or_all[n]].double().requires_grad_() for n, p in weights.items()}
    ours, theirs = make(list(weights.items()), masks), make_torch(list(left.values()))
    for step in range(12):
        set_gradients(weights, step)
        for n, p in left.items():
            p.grad = weights[n].grad[masks_or_all[n]].double()
        ours.step()
        theirs.step()
        assert_pruned_are_zero(ours, weights)
    for n, p in left.items():
        mine = weights[n].detach()[masks_or_all[n]].double()
        torch.testing.assert_close(mine, p.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_have_float32_moments(level: str, pair: str, dtype: torch.dtype) -> None:
    # One step from a float32 state: the result must be the float32 result, rounded once.
    make, _ = PAIRS[pair]
    half = parameters(dtype)
    full = {n: p.detach().float().requires_grad_() for n, p in half.items()}
    masks = random_masks()
    a, b = make(list(half.items()), masks), make(list(full.items()), masks)
    for step in range(5):
        set_gradients(half, step)
        for n, p in full.items():
            p.grad = half[n].grad.float()
            with torch.no_grad():
                p.copy_(half[n])
        a.step()
        b.step()
        assert_pruned_are_zero(a, half)
        for n, p in half.items():
            assert torch.equal(p.detach(), full[n].detach().to(dtype))
            for key, value in a.state[p].items():
                assert value.dtype == torch.float32
                assert torch.equal(value, b.state[full[n]][key])


def test_every_finite_half_value_survives_a_step_of_nothing(level: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        values = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype).clone()
        weight = values.clone().requires_grad_()
        weight.grad = torch.zeros_like(weight)
        P.MaskedSGD([("w", weight)], lr=0.0).step()
        finite = values.isfinite()
        assert torch.equal(weight.detach()[finite], values[finite])
        assert weight.detach()[values.isnan()].isnan().all()


def test_half_rounding_is_to_nearest_even(level: str) -> None:
    # w - lr * g with w = 0: every float32 g is rounded once. Compared with torch's own conversion.
    g = torch.Generator().manual_seed(0)
    exponent = torch.randint(-30, 18, (20000,), generator=g).float()
    for dtype in (torch.float16, torch.bfloat16):
        gradient = (torch.randn(20000, generator=g) * exponent.exp2()).to(dtype)
        weight = torch.zeros(20000, dtype=dtype, requires_grad=True)
        weight.grad = gradient
        P.MaskedSGD([("w", weight)], lr=1 / 3).step()
        expected = (0 - torch.tensor(1 / 3) * gradient.float()).to(dtype)
        assert torch.equal(weight.detach(), expected)


def test_channels_last_and_other_gradient_layouts(level: str) -> None:
    plain = torch.randn(6, 4, 3, 3)
    mask = torch.rand(6, 4, 3, 3) > 0.5
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = plain.clone().to(memory_format=layout).requires_grad_()
        optimizer = P.MaskedAdam([("w", weight)], {"w": mask}, lr=0.1)
        for step in range(3):
            weight.grad = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(step))
            optimizer.step()
            if step == 0:  # the model changes its memory format under the optimizer
                weight.data = weight.data.to(memory_format=torch.channels_last)
        results.append(weight.detach())
    assert torch.equal(*results)
    assert (results[0][~mask] == 0).all()


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
