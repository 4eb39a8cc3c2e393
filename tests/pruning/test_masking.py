"""Masks in any optimizer of torch: bit-zero after every step, and the rest trained as without them."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning
Opt = torch.optim
X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
OPTIMIZERS: dict[str, Callable[[Any], Opt.Optimizer]] = {
    "sgd": lambda p: Opt.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: Opt.Adam(p, lr=0.01, weight_decay=0.01, amsgrad=True),
    "adam-fused": lambda p: Opt.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: Opt.AdamW(p, lr=0.01, foreach=True),
    "rmsprop": lambda p: Opt.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: Opt.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "nadam": lambda p: Opt.NAdam(p, lr=0.01),
    "adadelta": lambda p: Opt.Adadelta(p, lr=1.0),
    "adamax": lambda p: Opt.Adamax(p, lr=0.01),
    "radam": lambda p: Opt.RAdam(p, lr=0.01),
    "asgd": lambda p: Opt.ASGD(p, lr=0.05),
    "rprop": lambda p: Opt.Rprop(p, lr=0.01),
    "adafactor": lambda p: Opt.Adafactor(p, lr=0.05),
    "masked-adam": lambda p: P.MaskedAdam(p, lr=0.01),
}


class Scaled(nn.Module):
    """With a parameter of no dimensions, whose moments have none either."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.scale = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.scale
        return out


def masks_of(model: nn.Module, seed: int = 3) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    masks = {n: torch.rand(p.shape, generator=g) > 0.4 for n, p in model.named_parameters() if p.dim()}
    return masks | {"scale": torch.tensor(False)}


def assert_bit_zero(optimizer: Opt.Optimizer, weights: dict[str, Tensor], masks: dict[str, Tensor]) -> None:
    for name, mask in masks.items():
        state = {
            k: v for k, v in optimizer.state[weights[name]].items() if k not in ("step", "mu_product", "eta", "mu")
        }
        for tensor in (weights[name], *state.values()):
            if isinstance(tensor, Tensor) and tensor.shape == mask.shape:
                gone = tensor.detach()[~mask]
                assert (gone.view(torch.int32) == 0).all(), (name, list(state))


def train(model: nn.Module, optimizer: Opt.Optimizer, steps: int, check: Callable[[], None] = lambda: None) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
        check()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_thirty_steps_leave_every_masked_weight_and_moment_zero(name: str) -> None:
    model = Scaled()
    masks, weights = masks_of(model), dict(model.named_parameters())
    optimizer = OPTIMIZERS[name](list(model.named_parameters()))
    P.masked(optimizer, masks)
    assert_bit_zero(optimizer, weights, masks)
    train(model, optimizer, 30, lambda: assert_bit_zero(optimizer, weights, masks))
    assert all(bool((weights[n].detach()[mask] != 0).all()) for n, mask in masks.items())


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "adagrad", "nadam", "adadelta"])
def test_what_is_kept_is_trained_as_a_network_without_the_rest_is(name: str) -> None:
    # The network that is left, by another way: weights times the mask in the forward pass, in float64.
    model, twin = nn.Linear(6, 3).double(), nn.Linear(6, 3).double()
    twin.load_state_dict(model.state_dict())
    mask = torch.rand(3, 6, generator=torch.Generator().manual_seed(5)) > 0.5
    optimizer, other = OPTIMIZERS[name](list(model.named_parameters())), OPTIMIZERS[name](list(twin.named_parameters()))
    P.masked(optimizer, {"weight": mask})
    for _ in range(10):
        for network, step in ((model, optimizer), (twin, other)):
            step.zero_grad()
            weight = network.weight if network is model else network.weight * mask
            (nn.functional.linear(X.double(), weight, network.bias) - 1).square().mean().backward()
            step.step()
    torch.testing.assert_close(model.weight.detach(), (twin.weight * mask).detach(), rtol=1e-12, atol=1e-12)


def test_accumulation_schedules_groups_closures_and_scaling_go_on_as_before() -> None:
    model = Scaled()
    masks, weights = masks_of(model), dict(model.named_parameters())
    groups = [
        {"params": list(model.body.named_parameters(prefix="body")), "lr": 0.1},
        {"params": [("scale", model.scale)], "momentum": 0.5},
    ]
    optimizer = Opt.SGD(groups, lr=0.05, momentum=0.9)
    schedule, scaler = Opt.lr_scheduler.StepLR(optimizer, 1, 0.5), torch.amp.GradScaler("cpu", init_scale=4.0)
    P.masked(optimizer, masks)
    for _ in range(3):
        optimizer.zero_grad()
        for part in X.split(4):  # accumulated
            scaler.scale(model(part).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        assert_bit_zero(optimizer, weights, masks)
    assert optimizer.param_groups[0]["lr"] == 0.1 / 8
    model.scale.grad = torch.tensor(torch.inf)  # such a step is left out
    before = model.body[0].weight.detach().clone()
    scaler.scale(model(X).sum()).backward()
    scaler.step(optimizer)
    assert torch.equal(model.body[0].weight, before)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(X).square().sum()
        loss.backward()
        return loss

    assert isinstance(optimizer.step(closure), Tensor)
    assert_bit_zero(optimizer, weights, masks)


def test_a_handle_changes_the_masks_and_ends_them() -> None:
    model = Scaled()
    weights = dict(model.named_parameters())
    optimizer = Opt.Adam(model.parameters(), lr=0.01)
    with P.masked(optimizer, masks_of(model), model) as handle:
        train(model, optimizer, 2)
        masks = masks_of(model, seed=4)
        handle.set_masks(masks)
        assert_bit_zero(optimizer, weights, masks)
        assert all(torch.equal(handle.masks[name], mask) for name, mask in masks.items())
        train(model, optimizer, 2)
        assert_bit_zero(optimizer, weights, masks)
    assert not optimizer._optimizer_step_post_hooks
    train(model, optimizer, 2)
    assert bool(model.scale != 0)


def test_a_loaded_state_is_masked_at_once_and_stays_torchs() -> None:
    model, dense = Scaled(), Scaled()
    theirs = Opt.Adam(dense.named_parameters(), lr=0.01)
    train(dense, theirs, 2)
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    optimizer = Opt.Adam(model.named_parameters(), lr=0.5)
    masks = masks_of(model)
    P.masked(optimizer, masks)
    optimizer.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert_bit_zero(optimizer, dict(model.named_parameters()), masks)
    snapshot = P.Snapshot.capture(model, optimizer)
    train(model, optimizer, 2)
    snapshot.restore(model, optimizer)
    assert_bit_zero(optimizer, dict(model.named_parameters()), masks)
    Opt.Adam(model.parameters()).load_state_dict(optimizer.state_dict())
    twin = copy.deepcopy(optimizer)  # has no hooks, as torch's copies have none
    P.masked(twin, masks)


def test_compiled_networks_tied_weights_and_weights_that_are_not_trained() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    model[2].requires_grad_(False)
    compiled = torch.compile(model, backend="eager")
    optimizer = Opt.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    first, second, third = (torch.rand(6, 6, generator=torch.Generator().manual_seed(i)) > 0.3 for i in range(3))
    P.masked(optimizer, {"0.weight": first, "1.weight": second, "2.weight": third}, compiled)
    train(compiled, optimizer, 3)
    assert torch.equal(model[0].weight != 0, first & second)
    assert torch.equal(model[2].weight != 0, third)


def test_a_compiled_step_keeps_the_masks() -> None:
    model = Scaled()
    masks = masks_of(model)
    optimizer = Opt.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    P.masked(optimizer, masks)
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(2):
        model(X).square().sum().backward()
        step()
        assert_bit_zero(optimizer, dict(model.named_parameters()), masks)


def test_what_cannot_be_masked_is_said_in_a_sentence() -> None:
    model = Scaled()
    masks = masks_of(model)
    plain, named = Opt.SGD(model.parameters(), lr=0.1), Opt.SGD(model.named_parameters(), lr=0.1)
    for wrong, sentence in (
        (lambda: P.masked(plain, masks), r"made without names of its parameters; make it from model.named_parameters"),
        (
            lambda: P.masked(named, {"x": masks["scale"]}),
            r"mask 'x' names no parameter of the optimizer; expected names",
        ),
        (
            lambda: P.masked(named, {"scale": torch.ones(2).bool()}),
            r"mask 'scale' has shape \(2,\); expected that of its",
        ),
        (
            lambda: P.masked(plain, masks, Scaled()),
            r"the optimizer trains none of the masked weights \(body.0.weight, ",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            wrong()
    assert not named._optimizer_step_post_hooks
    for wrong, sentence in (
        (lambda: P.masked(None, masks), "optimizer is a NoneType; expected a torch.optim.Optimizer"),
        (
            lambda: P.masked(Opt.LBFGS(model.parameters()), masks, model),
            "LBFGS remembers directions of all weights as one",
        ),
        (
            lambda: P.masked(named, {"scale": torch.ones(())}),
            "mask 'scale' is torch.float32; expected a tensor of dtype",
        ),
    ):
        with pytest.raises(TypeError, match=sentence):
            wrong()
