"""A step that is refused, or a state, leaves everything as it was: weights, moments, and what counts the steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning
MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda groups: P.MaskedAdam(groups, {"a": torch.tensor([True, False, True])}, lr=0.1),
    "sgd": lambda groups: P.MaskedSGD(groups, {"a": torch.tensor([True, False, True])}, lr=0.1, momentum=0.9),
}


def sparse(w: nn.Parameter) -> None:
    w.grad = torch.ones(4).to_sparse()


def moment_of_another_shape(optimizer: Any, w: nn.Parameter) -> None:
    key = next(key for key in optimizer.state[w] if key != "step")
    optimizer.state[w][key] = torch.zeros(7)


def moment_of_another_dtype(optimizer: Any, w: nn.Parameter) -> None:
    key = next(key for key in optimizer.state[w] if key != "step")
    optimizer.state[w][key] = optimizer.state[w][key].half()


FAULTS: dict[str, tuple[Callable[[Any, nn.Parameter], None], str]] = {
    "sparse gradient": (lambda _, w: sparse(w), "gradient of 'b' is sparse"),
    "moment of another shape": (
        moment_of_another_shape,
        r"of shape \(7,\) on cpu; expected torch.float32 of shape \(4,\)",
    ),
    "moment of another dtype": (
        moment_of_another_dtype,
        r"is torch.float16 of shape \(4,\) on cpu; expected torch.float32",
    ),
    "rate that is none": (lambda optimizer, _: optimizer.param_groups[1].update(lr="fast"), "could not convert"),
    "weight with gaps": (lambda _, w: setattr(w, "data", torch.ones(4, 2)[:, 0]), "memory has gaps"),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("warm", [True, False])
def test_a_refused_step_changes_nothing(kind: str, fault: str, warm: bool) -> None:
    cause, words = FAULTS[fault]
    if not warm and "moment" in fault:
        return
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))
    optimizer = MAKERS[kind]([{"params": [("a", first)]}, {"params": [("b", second)]}])
    first.grad, second.grad = torch.ones(3), torch.ones(4)
    if warm:
        optimizer.step()
    cause(optimizer, second)
    before = copy.deepcopy((optimizer.state_dict(), first.data, second.data))
    version = first._version
    with pytest.raises((TypeError, ValueError), match=words):
        optimizer.step()
    after = (optimizer.state_dict(), first.data, second.data)
    assert repr(after) == repr(before)
    assert first._version == version
    assert len(optimizer.state) == (2 if warm else 0)


@pytest.mark.parametrize("kind", MAKERS)
def test_weights_of_other_dtypes_are_refused_by_name(kind: str) -> None:
    a, w = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = MAKERS[kind]([("a", a), ("w", w)])
    a.grad, w.grad = torch.ones(3), torch.ones(3, dtype=torch.complex64)
    with pytest.raises(
        TypeError, match=r"parameter 'w' has dtype torch.complex64; expected float16, bfloat16, float32 or"
    ):
        optimizer.step()
    assert not optimizer.state
    assert a.tolist() == [1, 0, 1]


def _stepped(make: Any, model: nn.Module) -> dict[str, Any]:
    optimizer = make(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize(
    ("kind", "other", "words"),
    [
        (
            "MaskedAdam",
            lambda p: torch.optim.SGD(p, momentum=0.9),
            "the state of 'weight' holds momentum_buffer; expected ",
        ),
        (
            "MaskedSGD",
            torch.optim.Adam,
            "the state of 'weight' holds step, exp_avg, exp_avg_sq; expected momentum_buffer",
        ),
        ("MaskedAdam", torch.optim.Adafactor, "the state of 'weight' holds step, row_var, col_var; expected exp_avg"),
    ],
)
def test_states_of_other_optimizers_are_refused_and_change_nothing(kind: str, other: Any, words: str) -> None:
    model = nn.Linear(4, 2)
    optimizer = getattr(P, kind)(model.named_parameters(), {}, lr=0.1)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    before = repr(optimizer.state_dict())
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(_stepped(other, nn.Linear(4, 2)))
    same = getattr(torch.optim, kind.removeprefix("Masked"))
    options = {"momentum": 0.9} if kind == "MaskedSGD" else {}
    state = _stepped(lambda p: same(p, **options), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"of 'weight' has shape \(3, 4\); expected that of the parameter, \(2, 4\)"):
        optimizer.load_state_dict(state)
    assert repr(optimizer.state_dict()) == before


def test_gradients_live_until_the_step_is_taken() -> None:
    # A gradient in another memory order is copied; the copies of all groups are made before the first step.
    weights = {f"w{k}": nn.Parameter(torch.ones(2, 3, 64, 64)) for k in range(4)}
    optimizer = P.MaskedSGD([{"params": [pair]} for pair in weights.items()], lr=1.0)
    for k, w in enumerate(weights.values()):
        w.grad = torch.full_like(w, k + 1.0).contiguous(memory_format=torch.channels_last)
    optimizer.step()
    found: list[Tensor] = list(weights.values())
    assert all(bool((w == -k).all()) for k, w in enumerate(found))
