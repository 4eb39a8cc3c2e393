"""States of other optimizers, and extra state of modules: carried by snapshots, masked where they can be, or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunecca as pc
from prunecca.storage.structures import put_together, taken_apart

P = pc.pruning
pytestmark = pytest.mark.usefixtures("one_thread")


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation, as its public implementations are built: around another optimizer."""

    def __init__(self, parameters: Any, lr: float = 0.1) -> None:
        super().__init__(parameters, {"rho": 0.05, "lr": lr})
        self.base_optimizer = torch.optim.Adam(self.param_groups, lr=lr)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> None:
        again = torch.enable_grad()(closure)
        again()
        self.state["steps"] = self.state.get("steps", 0) + 1
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old_p"] = p.clone()
                p.add_(p.grad, alpha=group["rho"])
        again()
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["old_p"])
        self.base_optimizer.step()


class Lists(torch.optim.Optimizer):
    """Keeps lists, dictionaries, counts on the host and codes of eight bits, and a part of its own in the state."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.seen = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> None:
        torch.enable_grad()(closure)()
        self.seen += 1
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("history", []).append(p.grad.clone())
                state["sizes"] = (len(state["history"]), {"norm": p.grad.norm()})
                state["codes.of"] = torch.full(p.shape, 7, dtype=torch.uint8)
                p -= group["lr"] * sum(state["history"]) / len(state["history"])

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})


def _torch(name: str, **options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: getattr(torch.optim, name)(model.parameters(), **options)


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SAM": lambda model: SAM(model.parameters()),
    "lists": lambda model: Lists(model.parameters()),
    "LBFGS": _torch("LBFGS", lr=0.1, max_iter=3, history_size=3),
    **{
        name: _torch(name, lr=0.05)
        for name in ("Adafactor", "NAdam", "RAdam", "ASGD", "Rprop", "Adagrad", "Adadelta", "Adamax", "RMSprop", "SGD")
    },
}


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.5)))  # of no dimension, as counts are
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = torch.randn(16, 6, generator=generator), torch.randint(0, 3, (16,), generator=generator)

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x) * model.scale, y)
            loss.backward()
            return loss

        optimizer.step(closure)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stored", [False, True], ids=["kept", "stored"])
def test_a_rewound_optimizer_goes_on_as_the_first_time(name: str, stored: bool, tmp_path: Path) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model)
    train(model, optimizer, 3, seed=1)
    snapshot = P.Snapshot.capture(model, optimizer)
    train(model, optimizer, 3, seed=2)
    expected = copy.deepcopy(model.state_dict())
    if stored:
        snapshot.save(tmp_path / "s")
        assert (tmp_path / "s").read_bytes() == P.Snapshot.load(tmp_path / "s").as_bytes()
        snapshot = P.Snapshot.load(tmp_path / "s")
    for _ in range(2):  # the snapshot does not drift
        snapshot.restore(model, optimizer)
        train(model, optimizer, 3, seed=2)
        assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_act_on_what_belongs_to_each_weight_and_on_nothing_else(name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model)
    train(model, optimizer, 3, seed=1)
    counts = {k: v for k, v in optimizer.state[model.scale].items() if isinstance(v, Tensor)}
    before = copy.deepcopy(counts)
    masks = P.prune(model, {"all": ["0.weight", "2.weight"]}, 0.5) | {"scale": torch.tensor(False)}
    P.Snapshot.capture(model, optimizer).restore(model, optimizer, masks=masks)
    held = [optimizer.state, *([optimizer.base_optimizer.state] if name == "SAM" else [])]
    for state in held:
        for key, value in state.get(model[0].weight, {}).items():
            if isinstance(value, Tensor) and value.shape == (5, 6) and value.is_floating_point():
                assert not bool(value[~masks["0.weight"]].any()), key
    if name == "lists":
        assert bool((optimizer.state[model[0].weight]["codes.of"] == 7).all())
    after = optimizer.state[model.scale]
    assert all(torch.equal(after[key], value) for key, value in before.items())
    train(model, optimizer, 1, seed=3)


def test_an_optimizer_that_shares_its_groups_with_the_one_it_holds_still_does() -> None:
    model = network()
    optimizer = SAM(model.parameters())
    train(model, optimizer, 1, seed=1)
    P.Snapshot.capture(model, optimizer).restore(model, optimizer, optimizer_state="fresh")
    assert not optimizer.state
    assert not optimizer.base_optimizer.state
    assert optimizer.base_optimizer.param_groups is optimizer.param_groups
    with pytest.raises(ValueError, match="holds another as 'base_optimizer'; this one holds none"):
        P.Snapshot.capture(model, optimizer).restore(model, torch.optim.SGD(model.parameters()))


def test_optimizers_whose_state_has_another_form_are_refused() -> None:
    class Slow(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {"fast_state": {}, "slow_state": {}}

    model = network()
    with pytest.raises(TypeError, match="the state_dict of the Slow has the parts fast_state, slow_state; expected"):
        P.Snapshot.capture(model, Slow(model.parameters()))
    with pytest.raises(TypeError, match=r"optimizer is a int; expected a torch.optim.Optimizer"):
        P.Snapshot.capture(model, 3)  # type: ignore[arg-type]


class Extra(nn.Linear):
    """A layer with a state of its own, as those of quantisation have."""

    def __init__(self, value: Any) -> None:
        super().__init__(3, 3)
        self.value = value

    def get_extra_state(self) -> Any:
        return self.value

    def set_extra_state(self, state: Any) -> None:
        self.value = state


VALUES = [{"scale": 3, "amax": [torch.ones(2), None]}, torch.arange(3), None, (1, "a", 2.5), b"bytes"]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_extra_state_of_any_kind_is_rewound(value: Any, tmp_path: Path) -> None:
    model = nn.Sequential(Extra(value), Extra(None), nn.Linear(3, 2))
    snapshot = P.Snapshot.capture(model)
    before = copy.deepcopy(value)
    if isinstance(value, dict):
        value["amax"][0].zero_()
        value["scale"] = 4
    if isinstance(value, bytes):
        with pytest.raises(TypeError, match=r"extra.model.0._extra_state is a bytes; only tensors, numbers, text, and"):
            snapshot.save(tmp_path / "s")
    else:
        snapshot.save(tmp_path / "s")
        snapshot = P.Snapshot.load(tmp_path / "s")
    model[0].value = "something else"
    snapshot.restore(model)
    assert repr(model[0].value) == repr(before)
    assert snapshot.model.keys() == model.state_dict().keys()

    def adam(net: nn.Module, masks: Any) -> torch.optim.Optimizer:
        return P.MaskedAdam(net.named_parameters(), masks)

    levels = P.imp(model, P.Recipe(rates=0.5, levels=1, epochs=1, rewind_epoch=0), adam, lambda *_: None)
    assert [round(level.density, 1) for level in levels] == [1.0, 0.5]


def test_values_are_put_together_as_they_were_taken_apart() -> None:
    tensors: dict[str, Tensor] = {}
    value = {"a": [1, (2.5, None)], 3: {"b": torch.ones(2)}, "empty": [{}, (), []]}
    stored = taken_apart(value, "x", tensors)
    assert list(tensors) == ["x.3.b"]
    again = put_together(stored, dict(tensors))
    assert again["a"] == [1, (2.5, None)]
    assert again["empty"] == [{}, (), []]
    assert torch.equal(again[3]["b"], torch.ones(2))
