"""L1 and ADMM inside the steps of the masked optimizers, against NumPy in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunecca as pc
from prunecca import _native
from prunecca._arrays import native

P = pc.pruning
SHAPES = {"a.weight": (7, 37), "a.bias": (7,), "b.weight": (1100, 3)}
DRAWN = ["a.weight", "b.weight"]
RATE, DECAY = 0.05, 0.01
MAKE: dict[str, Callable[..., Any]] = {
    "adam": lambda named, masks, **more: P.MaskedAdam(named, masks, lr=RATE, weight_decay=DECAY, **more),
    "adamw": lambda named, masks, **more: P.MaskedAdam(
        named, masks, lr=RATE, weight_decay=DECAY, decoupled_weight_decay=True, **more
    ),
    "sgd": lambda named, masks, **more: P.MaskedSGD(named, masks, lr=RATE, weight_decay=DECAY, **more),
    "momentum": lambda named, masks, **more: P.MaskedSGD(
        named, masks, lr=RATE, momentum=0.9, weight_decay=DECAY, nesterov=True, **more
    ),
}
STRENGTH = {"l1": 0.3, "l1_loss": 0.02, "admm": 0.5}


def weights(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for n, s in SHAPES.items()}


def gradients(step: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(100 + step)
    return {n: torch.randn(s, generator=g, dtype=torch.float64) for n, s in SHAPES.items()}


def some_masks() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(7)
    return {n: torch.rand(SHAPES[n], generator=g) > 0.4 for n in DRAWN}


def largest_half(values: dict[str, Any]) -> dict[str, Tensor]:
    return P.prune({n: torch.as_tensor(v) for n, v in values.items()}, {"all": DRAWN}, 0.5)


class ByHand:
    """One weight of the rival, in NumPy."""

    def __init__(self, kind: str, method: str, w: np.ndarray, mask: np.ndarray) -> None:
        self.kind, self.method, self.mask = kind, method, mask
        self.w, self.m, self.v, self.step = w * mask, np.zeros_like(w), np.zeros_like(w), 0
        self.z = self.u = np.zeros_like(w)

    def take(self, g: np.ndarray, drawn: bool) -> None:
        self.step += 1
        w = self.w
        if self.method != "adamw":
            g = g + DECAY * w
        if drawn and self.kind == "l1_loss":
            g = g + STRENGTH["l1_loss"] * np.sign(w)
        if drawn and self.kind == "admm":
            g = g + STRENGTH["admm"] * (w - self.z + self.u)
        g = g * self.mask
        if self.method.startswith("adam"):
            self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g**2
            first, second = self.m / (1 - 0.9**self.step), self.v / (1 - 0.999**self.step)
            shrunk = w * (1 - RATE * DECAY) if self.method == "adamw" else w
            new = shrunk - RATE * first / (np.sqrt(second) + 1e-8)
        elif self.method == "momentum":
            self.m = g if self.step == 1 else 0.9 * self.m + g
            new = w - RATE * (g + 0.9 * self.m)
        else:
            new = w - RATE * g
        if drawn and self.kind == "l1":
            new = np.sign(new) * np.maximum(np.abs(new) - RATE * STRENGTH["l1"], 0)
        self.w = new * self.mask


@pytest.mark.parametrize("kind", STRENGTH)
@pytest.mark.parametrize("method", MAKE)
def test_thirty_steps_equal_numpy(level: str, method: str, kind: str) -> None:
    mine, masks = weights(), some_masks()
    hand = {
        n: ByHand(kind, method, w.detach().numpy().copy(), masks[n].numpy() if n in masks else np.ones(SHAPES[n]))
        for n, w in mine.items()
    }
    optimizer = MAKE[method](mine.items(), masks)
    optimizer.set_penalty(kind, STRENGTH[kind])
    for step in range(30):
        if kind == "admm" and step % 10 == 0:
            optimizer.update_duals(largest_half)
            chosen = largest_half({n: hand[n].w + hand[n].u for n in DRAWN})
            for n in DRAWN:
                one = hand[n]
                z = np.where(chosen[n].numpy(), one.w + one.u, 0)
                one.u, one.z = (one.u + one.w - z if step else one.u), z
        for n, g in gradients(step).items():
            mine[n].grad = g
            hand[n].take(g.numpy(), n in DRAWN)
        optimizer.step()
    for n, w in mine.items():
        np.testing.assert_allclose(w.detach().numpy(), hand[n].w, rtol=1e-9, atol=1e-12)
        for value in (w.detach(), *optimizer.state[w].values()):
            if n in masks and value.shape == w.shape:
                gone = value[~masks[n]]
                assert not gone.any()
                assert not gone.signbit().any()
    if kind == "l1":
        exact = mine["a.weight"].detach()[masks["a.weight"]]
        assert 0 < int((exact == 0).sum()) < exact.numel()


@pytest.mark.parametrize("kind", STRENGTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_weights_are_the_float32_step_rounded_once(level: str, kind: str, dtype: torch.dtype) -> None:
    half, masks = weights(dtype), some_masks()
    full = {n: w.detach().float().requires_grad_() for n, w in half.items()}
    pair = [MAKE["adam"](which.items(), masks) for which in (half, full)]
    for optimizer in pair:
        optimizer.set_penalty(kind, STRENGTH[kind])
        if kind == "admm":
            optimizer.update_duals(largest_half)
    for n, g in gradients(0).items():
        half[n].grad, full[n].grad = g.to(dtype), g.to(dtype).float()
    for optimizer in pair:
        optimizer.step()
    for n in SHAPES:
        assert torch.equal(half[n], full[n].to(dtype))


@pytest.mark.parametrize("kind", STRENGTH)
def test_frozen_weights_stay_what_they_are(level: str, kind: str) -> None:
    mine, masks = weights(), some_masks()
    before = {n: w.detach().clone() for n, w in mine.items()}
    optimizer = MAKE["momentum"](mine.items(), masks, pruned="frozen")
    optimizer.set_penalty(kind, STRENGTH[kind])
    if kind == "admm":
        optimizer.update_duals(largest_half)
    for n, g in gradients(0).items():
        mine[n].grad = g
    optimizer.step()
    for n, mask in masks.items():
        assert torch.equal(mine[n][~mask], before[n][~mask])
        assert not torch.equal(mine[n][mask], before[n][mask])


def test_a_penalty_that_ended_leaves_the_plain_step_to_the_bit() -> None:
    pair = [weights(torch.float32), weights(torch.float32)]
    optimizers = [MAKE["adam"](each.items(), some_masks()) for each in pair]
    optimizers[0].set_penalty("admm", 1.0)
    optimizers[0].update_duals(largest_half)
    optimizers[0].set_penalty("none")
    for step in range(3):
        for each, optimizer in zip(pair, optimizers, strict=True):
            for n, g in gradients(step).items():
                each[n].grad = g.float()
            optimizer.step()
    assert all(torch.equal(pair[0][n], pair[1][n]) for n in SHAPES)
    assert optimizers[0].state_dict()["state"][0].keys() == optimizers[1].state_dict()["state"][0].keys()


class TestResumed:
    """Z and U are in every checkpoint, and going on from it gives the same bits."""

    def network(self) -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = P.MaskedAdam(model.named_parameters(), lr=RATE)
        optimizer.set_penalty("admm", 0.5, ["0.weight"])
        return model, optimizer

    def go_on(self, model: nn.Module, optimizer: Any, first: int, last: int) -> None:
        for epoch in range(first, last):
            optimizer.update_duals(lambda values: P.prune(values, {"all": ["0.weight"]}, 0.75))
            optimizer.zero_grad()
            inputs = torch.randn(9, 6, generator=torch.Generator().manual_seed(epoch))
            model(inputs).square().sum().backward()
            optimizer.step()

    @pytest.mark.parametrize("way", ["snapshot", "file", "state_dict", "deepcopy"])
    def test_bit_for_bit(self, way: str, tmp_path: Path) -> None:
        model, optimizer = self.network()
        self.go_on(model, optimizer, 0, 3)
        other, resumed = self.network()
        if way == "deepcopy":
            other, resumed = copy.deepcopy((model, optimizer))
        elif way == "state_dict":
            other.load_state_dict(model.state_dict())
            resumed.load_state_dict(optimizer.state_dict())
        else:
            snapshot = P.Snapshot.capture(model, optimizer)
            if way == "file":
                snapshot.save(tmp_path / "state.safetensors")
                snapshot = P.Snapshot.load(tmp_path / "state.safetensors")
            snapshot.restore(other, resumed)
        for each in (model, optimizer), (other, resumed):
            self.go_on(*each, 3, 6)
        assert torch.equal(model[0].weight, other[0].weight)
        for key in ("admm_target", "admm_dual"):
            kept = optimizer.state[model[0].weight][key]
            assert kept.any()
            assert torch.equal(kept, resumed.state[other[0].weight][key])
        assert int((optimizer.state[model[0].weight]["admm_target"] != 0).sum()) == 12

    def test_new_masks_act_on_both(self) -> None:
        model, optimizer = self.network()
        self.go_on(model, optimizer, 0, 3)
        mask = torch.rand(8, 6, generator=torch.Generator().manual_seed(0)) > 0.5
        optimizer.set_masks({"0.weight": mask})
        state = optimizer.state[model[0].weight]
        for value in (*(state[key] for key in ("admm_target", "admm_dual")), optimizer.penalty.anchors["0.weight"]):
            assert not value[~mask].any()
            assert value[mask].any()


def test_what_is_refused_in_one_sentence() -> None:
    optimizer = MAKE["adam"](weights().items(), some_masks())
    with pytest.raises(ValueError, match="penalty is 'l2'; expected one of none, l1, l1_loss, admm"):
        optimizer.set_penalty("l2", 0.1)
    for strength in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"strength of the penalty 'l1' is .*; expected a number above 0"):
            optimizer.set_penalty("l1", strength)
    with pytest.raises(ValueError, match="'c' names no parameter of this optimizer"):
        optimizer.set_penalty("l1", 0.1, ["c"])
    with pytest.raises(RuntimeError, match=r"the penalty is 'none'; call set_penalty\('admm', rho\) first"):
        optimizer.update_duals(largest_half)
    mine = weights()
    optimizer = MAKE["adam"](mine.items(), some_masks())
    optimizer.set_penalty("admm", 0.1)
    mine["a.weight"].grad = torch.ones(7, 37, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"no Z and U of 'a.weight' yet; call update_duals before the first step"):
        optimizer.step()


def test_the_native_step_refuses_penalties_that_do_not_fit() -> None:
    weight = torch.ones(3)
    given = {
        "weights": [native(weight)], "gradients": [native(torch.ones(3))], "momenta": [], "masks": [None], "first": [True],
        "lr": 0.1, "momentum": 0.0, "dampening": 0.0, "l2": 0.0, "nesterov": False, "keep_masked": False, "threads": 1,
        "stream": 0,
    }  # fmt: skip
    half = torch.ones(3, dtype=torch.float16)
    for penalties, message in (
        ([(None, 0.0, 0.1, 0.0)] * 2, "penalties"),
        ([(native(half), 1.0, 0.0, 0.0)], "moment of another dtype"),
        ([(native(torch.ones(4)), 1.0, 0.0, 0.0)], "moment"),
        ([(None, 0.0, -0.1, 0.0)], "a penalty below 0; expected 0 or more"),
        ([(None, 0.0, 0.0, float("nan"))], "a penalty below 0; expected 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            _native.sgd_step(**given, penalties=penalties)
    assert torch.equal(weight, torch.ones(3))
