"""The optimizers whose numbers lie on the device, walked on the host with the plain steps behind the binding's names."""

from __future__ import annotations

import copy
import ctypes
import math
import types

import pytest
import torch
from torch import nn

import prunecca as pc
from prunecca import _native
from prunecca._arrays import native
from prunecca.pruning import optimizers


def _numbers(array, kind):
    """The memory of a native array as ctypes numbers."""
    return (kind * math.prod(array[1])).from_address(array[0])


@pytest.fixture
def calls(monkeypatch):
    """What reached the binding; done by the host's kernels."""
    seen = []

    def adam_advance(step, rate, beta1, beta2, decay, schedule, stream):
        count, numbers = _numbers(step, ctypes.c_float), _numbers(schedule, ctypes.c_double)
        count[0] += 1
        rate = _numbers(rate, ctypes.c_float)[0]
        numbers[:] = [rate / (1 - beta1 ** count[0]), 1 / math.sqrt(1 - beta2 ** count[0]), 1 - rate * decay, rate]
        seen.append(("advance", int(count[0])))

    def times(penalties, rate):
        return [(anchor, pull, l1, threshold * rate) for anchor, pull, l1, threshold in penalties]

    def adam_step_scheduled(schedule, beta1, beta2, stream, penalties, **given):
        step_size, root_scale, shrink, rate = _numbers(schedule, ctypes.c_double)
        given["penalties"] = times(penalties, rate)
        step = round(math.log(1 - root_scale**-2) / math.log(beta2))
        lr = step_size * (1 - beta1**step)
        steps = [step] * len(given["weights"])
        _native.adam_step(
            **given, steps=steps, lr=lr, beta1=beta1, beta2=beta2, shrink=shrink, threads=1, stream=stream
        )

    def sgd_step_scheduled(rate, penalties, **given):
        rate = _numbers(rate, ctypes.c_float)[0]
        _native.sgd_step(**given, lr=rate, threads=1, penalties=times(penalties, rate))
        seen.append(("sgd", list(given["first"])))

    fake = types.SimpleNamespace(
        adam_advance=adam_advance, adam_step_scheduled=adam_step_scheduled, sgd_step_scheduled=sgd_step_scheduled
    )
    fake.adam_step, fake.sgd_step = _native.adam_step, _native.sgd_step
    monkeypatch.setattr(optimizers, "_native", fake)
    return seen


def _pair(make, **options):
    """One network twice, stepped by the plain and by the capturable optimizer."""
    model = nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 5))
    masks = {"0.weight": torch.rand(6, 7) < 0.5}
    models = [model, copy.deepcopy(model)]
    made = [
        make(m.named_parameters(), masks, lr=0.1, capturable=c, **options)
        for m, c in zip(models, (False, True), strict=True)
    ]
    return models, made, masks


def _step(models, made):
    for each in zip(*(m.parameters() for m in models), strict=True):
        gradient = torch.randn(each[0].shape)
        for p in each:
            p.grad = gradient.clone()
    for optimizer in made:
        optimizer.step()


MAKERS = [
    (pc.pruning.MaskedAdam, {"weight_decay": 0.1}),
    (pc.pruning.MaskedAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True, "pruned": "frozen"}),
    (pc.pruning.MaskedSGD, {"momentum": 0.9, "nesterov": True}),
    (pc.pruning.MaskedSGD, {}),
]


@pytest.mark.parametrize(("make", "options"), MAKERS)
def test_steps_are_the_plain_ones(calls, make, options):
    models, made, masks = _pair(make, **options)
    for number in range(4):
        if number == 2:  # a schedule changes the rate
            made[0].param_groups[0]["lr"] = 0.05
            made[1].param_groups[0]["lr"] = torch.tensor(0.05)
        _step(models, made)
    for got, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    if options.get("pruned") != "frozen":
        assert not models[1][0].weight[~masks["0.weight"]].any()


@pytest.mark.parametrize("kind", ["l1", "l1_loss", "admm"])
@pytest.mark.parametrize(("make", "options"), MAKERS)
def test_steps_with_a_penalty_are_the_plain_ones(calls, make, options, kind, monkeypatch):
    models, made, _ = _pair(make, **options)
    for optimizer in made:
        optimizer.set_penalty(kind, 0.2, ["0.weight"])
    addresses = set()
    for number in range(4):
        if number == 2:  # a schedule changes the rate
            made[0].param_groups[0]["lr"] = 0.05
            made[1].param_groups[0]["lr"] = torch.tensor(0.05)
        if kind == "admm":
            for optimizer in made:
                optimizer.update_duals(lambda values: pc.pruning.prune(values, {"all": ["0.weight"]}, 0.5))
            addresses.add(made[1].penalty.anchors["0.weight"].data_ptr())
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "item", lambda _: pytest.fail("the device was waited for"))
            _step(models, made)
    for got, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    if kind == "l1":
        assert (models[1][0].weight == 0).sum() == (models[0][0].weight == 0).sum()
    assert len(addresses) == (kind == "admm")  # where a graph that was captured reads it


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("make", [pc.pruning.MaskedAdam, pc.pruning.MaskedSGD])
def test_a_rate_on_the_device_is_not_asked_for(calls, make, dtype, monkeypatch):
    models, made, _ = _pair(make)
    for optimizer, lr in zip(made, (0.125, torch.tensor(0.125, dtype=dtype)), strict=True):
        optimizer.param_groups[0]["lr"] = lr
    monkeypatch.setattr(torch.Tensor, "item", lambda _: pytest.fail("the device was waited for"))
    _step(models, made[:1])
    monkeypatch.setattr(torch.Tensor, "__float__", lambda _: pytest.fail("the device was waited for"))
    _step([models[1]], [])
    for p, q in zip(*(m.parameters() for m in models), strict=True):
        q.grad = p.grad.clone()
    made[1].step()
    for got, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [pc.pruning.MaskedAdam, pc.pruning.MaskedSGD])
def test_each_group_steps_at_its_own_rate(calls, make):
    layers = [nn.Linear(4, 4, bias=False) for _ in range(2)]
    for capturable in (False, True):
        copies = copy.deepcopy(layers)
        groups = [
            {"params": list(layer.named_parameters(prefix=str(k))), "lr": rate}
            for k, (layer, rate) in enumerate(zip(copies, (0.5, 0.125), strict=True))
        ]
        optimizer = make(groups, capturable=capturable)
        for layer in copies:
            layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
        for layer, before, rate in zip(copies, layers, (0.5, 0.125), strict=True):
            torch.testing.assert_close(layer.weight, before.weight - rate, rtol=1e-5, atol=1e-6)


def test_one_step_count_for_a_group_through_copies_and_checkpoints(calls):
    models, made, masks = _pair(pc.pruning.MaskedAdam)
    _step(models, made)
    steps = [made[1].state[p]["step"] for p in models[1].parameters()]
    assert all(step is steps[0] for step in steps)

    restored = pc.pruning.MaskedAdam(models[1].named_parameters(), masks, lr=0.1, capturable=True)
    restored.load_state_dict(made[0].state_dict())  # of one that is not capturable
    assert restored.param_groups[0]["capturable"]
    _step(models, [made[0], restored])
    for got, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    plain = pc.pruning.MaskedAdam(models[0].named_parameters(), masks, lr=0.1)
    plain.load_state_dict(copy.deepcopy(restored.state_dict()))
    assert not plain.param_groups[0]["capturable"]
    _step(models, [plain, restored])
    for got, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert [int(restored.state[p]["step"]) for p in models[1].parameters()] == [3] * 4


def test_parameters_that_took_different_numbers_of_steps_need_groups_of_their_own(calls):
    models, made, _ = _pair(pc.pruning.MaskedAdam)
    models[1][1].weight.grad = torch.ones_like(models[1][1].weight)
    made[1].step()
    with pytest.raises(ValueError, match=r"have taken \[0.0, 1.0\] steps"):
        _step(models, made)


if hasattr(_native, "adam_advance"):

    def test_the_binding_wants_a_device():
        step, schedule = torch.zeros(()), torch.zeros(4, dtype=torch.float64)
        with pytest.raises(ValueError, match="expected weights on a CUDA device"):
            _native.adam_advance(native(step), native(step), 0.9, 0.99, 0.0, native(schedule), 0)
        w = torch.zeros(3)
        arrays = [native(w)]
        with pytest.raises(ValueError, match="expected weights on a CUDA device"):
            _native.adam_step_scheduled(
                arrays, arrays, arrays, arrays, [None], native(schedule), 0.9, 0.99, 1e-8, 0.0, False, 0
            )
        with pytest.raises(ValueError, match="expected weights on a CUDA device"):
            _native.sgd_step_scheduled(
                arrays, arrays, [], [None], [False], native(step), 0.0, 0.0, 0.0, False, False, 0
            )
