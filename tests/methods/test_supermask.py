"""Supermasks: forward passes and gradients against NumPy in float64, resuming bit for bit, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunecca as pc
from prunecca.seeds import derive

P = pc.pruning
POOLS = {"all": ["0.weight", "0.bias"]}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).double()


def with_scores(**options: Any) -> P.Supermask:
    supermask = P.Supermask(network(), POOLS, **options)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for score in supermask.scores.values():
            score.copy_(torch.randn(score.shape, generator=g, dtype=torch.float64))
    return supermask


@pytest.mark.parametrize("sampling", ["bernoulli", "threshold"])
@pytest.mark.parametrize("rescale", [False, True])
def test_a_pass_and_its_gradients_equal_numpy(sampling: str, rescale: bool) -> None:
    supermask = with_scores(sampling=sampling, rescale=rescale, seed=5)
    x = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    supermask(x).square().sum().backward()

    g = torch.Generator().manual_seed(derive(5, "supermask", 0))
    w1, b1, w2, b2 = (p.detach().numpy() for p in supermask.network.parameters())
    masks, probabilities, factors = {}, {}, {}
    for name, score in supermask.scores.items():
        p = 1 / (1 + np.exp(-score.detach().numpy()))
        drawn = torch.rand(score.shape, generator=g, dtype=torch.float64).numpy()
        mask = drawn < p if sampling == "bernoulli" else p >= 0.5
        factors[name] = mask.size / mask.sum() if rescale else 1.0
        masks[name], probabilities[name] = mask * factors[name], p
    inputs = x.numpy()
    before = inputs @ (w1 * masks["0.weight"]).T + b1 * masks["0.bias"]
    hidden = np.maximum(before, 0)
    out = hidden @ w2.T + b2
    back = (2 * out) @ w2 * (before > 0)
    slopes = {name: p * (1 - p) * factors[name] for name, p in probabilities.items()}
    expected = {
        "0.weight": back.T @ inputs * w1 * slopes["0.weight"],
        "0.bias": back.sum(0) * b1 * slopes["0.bias"],
    }
    for name, score in supermask.scores.items():
        assert 0 < masks[name].astype(bool).mean() < 1
        np.testing.assert_allclose(score.grad.numpy(), expected[name], rtol=1e-11, atol=1e-12)
    assert all(p.grad is None for p in supermask.network.parameters())
    exact = {name: torch.from_numpy(mask > 0) for name, mask in masks.items()}
    alone = network()
    alone.load_state_dict(supermask.state(exact))
    np.testing.assert_allclose(alone(x).detach().numpy(), out, rtol=1e-12)


def test_no_weight_is_ever_trained_and_masks_have_an_exact_count() -> None:
    supermask = P.Supermask(network(), POOLS, probability=0.3)
    start = copy.deepcopy(supermask.network.state_dict())
    optimizer = torch.optim.AdamW(supermask.parameters(), lr=0.1, weight_decay=0.1)
    for step in range(5):
        optimizer.zero_grad()
        supermask(torch.full((2, 6), step + 1.0, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(t, start[n]) for n, t in supermask.network.state_dict().items())
    masks = P.prune(supermask.scores, POOLS, 0.29, criterion="score")
    scores = np.concatenate([supermask.scores[n].detach().numpy().ravel() for n in POOLS["all"]])
    kept = np.concatenate([masks[n].numpy().ravel() for n in POOLS["all"]])
    assert kept.sum() == 56 - 16
    assert sorted(np.flatnonzero(~kept)) == sorted(np.argsort(scores, kind="stable")[:16])
    state = supermask.state(masks)
    for name, mask in masks.items():
        assert torch.equal(state[name], torch.where(mask, start[name], 0.0))
    assert torch.equal(state["2.weight"], start["2.weight"])


def test_bernoulli_masks_have_the_probability_they_begin_with() -> None:
    pools = {"a": ["0.weight"], "b": ["1.weight"]}
    layers = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
    for layer in layers:
        nn.init.constant_(layer.weight, 0.01)
    supermask = P.Supermask(layers, pools, probability={"a": 0.2, "b": 0.7})
    found = supermask(torch.ones(1, 100)).mean().item()  # 100 x 0.01 x 0.2, then x 0.7
    assert abs(found - 0.2 * 0.7) < 0.01


class TestResumed:
    def go_on(self, supermask: Any, optimizer: Any, first: int, last: int) -> None:
        for step in range(first, last):
            optimizer.zero_grad()
            inputs = torch.randn(9, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            supermask(inputs).square().sum().backward()
            optimizer.step()

    @pytest.mark.parametrize("way", ["snapshot", "file", "state_dict", "deepcopy"])
    def test_bit_for_bit(self, way: str, tmp_path: Path) -> None:
        def begun() -> tuple[Any, Any]:
            supermask = P.Supermask(network(), POOLS, seed=3)
            return supermask, torch.optim.Adam(supermask.scores.values(), lr=0.1)

        (supermask, optimizer), (other, resumed) = begun(), begun()
        self.go_on(supermask, optimizer, 0, 3)
        if way == "deepcopy":
            other = copy.deepcopy(supermask)
            resumed = torch.optim.Adam(other.scores.values(), lr=0.1)
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        elif way == "state_dict":
            other.load_state_dict(supermask.state_dict())
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        else:
            snapshot = P.Snapshot.capture(supermask, optimizer)
            if way == "file":
                snapshot.save(tmp_path / "state.safetensors")
                snapshot = P.Snapshot.load(tmp_path / "state.safetensors")
            snapshot.restore(other, resumed)
        torch.manual_seed(99)  # nothing is drawn from the generator of all
        for each in (supermask, optimizer), (other, resumed):
            self.go_on(*each, 3, 6)
        for name, score in supermask.scores.items():
            assert torch.equal(score, other.scores[name])
            assert len(score.unique()) > 2


def test_an_evaluation_changes_nothing() -> None:
    supermask = with_scores()
    x = torch.ones(2, 6, dtype=torch.float64)
    supermask.eval()
    first, second = supermask(x), supermask(x)
    supermask.train()
    assert torch.equal(first, second)
    assert torch.equal(supermask(x), first)
    assert not torch.equal(supermask(x), first)
    assert supermask.draws == 2


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: Any) -> Any:
        return self.b(self.a(x))


MODULES = {
    "lstm": (lambda: nn.LSTM(4, 4, batch_first=True), lambda out: out[0]),
    "encoder": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), lambda out: out),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), lambda out: out),
    "tied": (Tied, lambda out: out),
    "convolution": (lambda: nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4)), lambda out: out),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("train", [True, False])
def test_whatever_reads_a_weight_reads_the_masked_one(name: str, train: bool) -> None:
    make, output = MODULES[name]
    torch.manual_seed(0)
    model = make()
    pools = P.pools_by_type(model, include_output=True)
    supermask = P.Supermask(copy.deepcopy(model), pools, sampling="threshold").train(train)
    masks = P.prune(model, pools, 0.5, criterion="random")
    with torch.no_grad():
        for key, score in supermask.scores.items():
            score.copy_(torch.where(masks[key], 1.0, -1.0))
    alone = copy.deepcopy(model).train(train)
    P.apply_masks(alone, masks)
    x = torch.randn(2, 3, 4)
    assert torch.allclose(output(supermask(x)), output(alone(x)), atol=1e-6)
    state = supermask.state(masks)
    alone.load_state_dict(state)
    if train:
        output(supermask(x)).square().sum().backward()
        weights = dict(supermask.network.named_parameters())  # some biases are zero, whatever their masks are
        assert all(score.grad.any() == weights[key].any() for key, score in supermask.scores.items())


def test_half_weights_have_float32_scores() -> None:
    supermask = P.Supermask(nn.Linear(4, 2).bfloat16(), {"all": ["weight"]})
    supermask(torch.ones(3, 4, dtype=torch.bfloat16)).sum().backward()
    (score,) = supermask.scores.values()
    assert (score.dtype, score.grad.dtype) == (torch.float32, torch.float32)


def refused(kind: type[Exception], message: str, pools: Any = POOLS, model: Any = None, **options: Any) -> None:
    with pytest.raises(kind, match=f"^{message}"):
        P.Supermask(network() if model is None else model, pools, **options)


def test_what_is_refused_in_one_sentence() -> None:
    refused(TypeError, r"network is a dict; expected a torch\.nn\.Module", model={})
    refused(ValueError, "sampling is 'often'; expected one of bernoulli, threshold", sampling="often")
    for value in (0.0, 1.0, -1.0, float("nan")):
        refused(ValueError, r"probability of pool 'all' is .*; expected a number between 0 and 1", probability=value)
    refused(ValueError, "pools and probabilities differ in 'all'; expected one probability", probability={"fc": 0.5})
    refused(ValueError, "pooled parameter '9.weight' does not exist", {"all": ["9.weight"]})
    refused(ValueError, "no pool names a parameter", {"all": []})
    refused(ValueError, "parameter '0.bias' is in the pools 'a' and 'b'", {"a": ["0.bias"], "b": ["0.bias"]})
    refused(ValueError, "parameter 'weight' has no shape yet", {"all": ["weight"]}, nn.LazyLinear(3))
    supermask = with_scores()
    with pytest.raises(ValueError, match=r"masks and scores differ in '0.bias'; expected a mask for each"):
        supermask.state({"0.weight": torch.ones(8, 6, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"mask '0.bias' is torch.float32 of shape \(8,\); expected torch.bool"):
        supermask.state({"0.weight": torch.ones(8, 6, dtype=torch.bool), "0.bias": torch.ones(8)})
