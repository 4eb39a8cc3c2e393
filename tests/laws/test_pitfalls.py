"""What implementations of iterative magnitude pruning get wrong, each with the test that catches it."""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small lose more than they gain by a second thread, far more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Network(nn.Module):
    """A small network of the paper's kind, with names that lie about what the modules are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.conv1_weight_norm = nn.BatchNorm2d(6)  # a BatchNorm, whatever it is called
        self.head = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 16, 12)
        self.fc_linear = nn.BatchNorm1d(12)
        self.output = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1_weight_norm(self.conv1(x)).relu()
        x = nn.functional.max_pool2d(self.head(x).relu(), 2)
        out: Tensor = self.output(self.fc_linear(self.fc(x.flatten(1))).relu())
        return out


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def prune(model: nn.Module, rate: float = 0.2, previous: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    return P.prune(model, P.pools_by_type(model), {"conv": rate, "fc": rate}, previous)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = torch.randn(16, 1, 8, 8, generator=g), torch.randint(0, 3, (16,), generator=g)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adam-l2": lambda m, k: P.MaskedAdam(m.named_parameters(), k, lr=1e-2, weight_decay=5e-4),
    "adamw": lambda m, k: P.MaskedAdam(
        m.named_parameters(), k, lr=1e-2, weight_decay=1e-2, decoupled_weight_decay=True
    ),
    "sgd-momentum": lambda m, k: P.MaskedSGD(m.named_parameters(), k, lr=1e-2, momentum=0.9, weight_decay=5e-4),
}


def masked(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([state[name].detach()[~mask] for name, mask in masks.items()])


def moments(model: nn.Module, optimizer: torch.optim.Optimizer, masks: Mapping[str, Tensor]) -> Tensor:
    found = [
        value[~mask]
        for name, mask in masks.items()
        for key, value in optimizer.state[model.get_parameter(name)].items()
        if key != "step"
    ]
    return torch.cat(found) if found else torch.zeros(0)


def digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("state", ["kept", "fresh"])
def test_a_masked_weights_never_move(kind: str, state: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[kind](model, {})
    train(model, optimizer, 50)
    masks = prune(model)
    if state == "kept":
        assert (moments(model, optimizer, masks) != 0).any()
        optimizer.set_masks(masks)
    else:
        optimizer = OPTIMIZERS[kind](model, masks)
    for steps in (0, 1, 9, 90):
        train(model, optimizer, steps, seed=steps)
        gone = masked(dict(model.named_parameters()), masks)
        assert len(gone) > 200
        assert (gone == 0).all()
        assert not gone.signbit().any()
    again = prune(model, 0.2, masks)
    assert not any((again[n] & ~masks[n]).any() for n in masks)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a2_moments_are_dead_and_the_clipped_norm_is_the_sub_networks(kind: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[kind](model, {})
    train(model, optimizer, 20)
    masks = prune(model)
    optimizer.set_masks(masks)
    assert (moments(model, optimizer, masks) == 0).all()
    train(model, optimizer, 5, seed=1)
    assert len(moments(model, optimizer, masks)) > 200
    assert (moments(model, optimizer, masks) == 0).all()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    left = [g[masks[n]] if n in masks else g.ravel() for n, g in gradients.items()]
    torch.testing.assert_close(optimizer.clip_gradients(1e-3), torch.cat(left).norm())
    clipped = torch.cat([p.grad.ravel() for p in model.parameters()]).norm()
    torch.testing.assert_close(clipped, torch.tensor(1e-3), rtol=1e-2, atol=0)


def test_b_a_checkpoint_right_after_a_step_is_sparse() -> None:
    model = network()
    masks = prune(model)
    optimizer = OPTIMIZERS["adam-l2"](model, masks)
    train(model, optimizer, 1)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert (masked(saved["model"], masks) == 0).all()
    other = network()
    other.load_state_dict(saved["model"])
    twin = OPTIMIZERS["adam-l2"](other, masks)
    twin.load_state_dict(saved["optimizer"])
    assert (moments(other, twin, masks) == 0).all()


@pytest.mark.filterwarnings("ignore::prunecca.pruning.LayerCollapseWarning")
@pytest.mark.parametrize("k", [0, 1, 199, 200, 500, 999, 1000])
@pytest.mark.parametrize(
    "values",
    [
        torch.randperm(1000, generator=torch.Generator().manual_seed(0)) - 500.0,
        torch.arange(1000) % 7 - 3.0,
        torch.full((1000,), -0.3),
        torch.zeros(1000),
        torch.where(torch.arange(1000) % 2 == 0, 0.0, -0.0),
        torch.arange(1000) * 1e-45,
    ],
    ids=["distinct", "tied", "all-equal", "zeros", "signed-zeros", "denormals"],
)
def test_c_exactly_k(values: Tensor, k: int) -> None:
    mask = P.prune({"w": values}, {"fc": ["w"]}, k / 1000)["w"]
    assert int((~mask).sum()) == k
    order = values.double().abs().argsort(stable=True)
    assert torch.equal(order[:k].sort()[0], (~mask).nonzero().ravel())


def test_c_nan_is_an_error() -> None:
    values = torch.arange(10.0)
    values[4] = float("nan")
    with pytest.raises(ValueError, match="parameter 'w' has a NaN score"):
        P.prune({"w": values}, {"fc": ["w"]}, 0.1)


@pytest.mark.parametrize("n", range(1, 11))
def test_c2_a_count_of_zero_prunes_nothing(n: int) -> None:
    mask = P.prune({"w": torch.randn(n)}, {"fc": ["w"]}, 0.1)["w"]
    assert int((~mask).sum()) == (1 if n == 10 else 0)


def test_c3_the_ladder_is_that_of_floor() -> None:
    masks, weights, ladder = None, {"w": torch.randn(2768)}, [2768]
    for _ in range(20):
        masks = P.prune(weights, {"conv": ["w"]}, 0.1, masks)
        ladder.append(int(masks["w"].sum()))
    assert ladder[:4] == [2768, 2492, 2243, 2019]
    assert ladder[-1] == 342


def test_c4_a_pool_loses_exactly_its_own() -> None:
    weights = {"conv": torch.randn(1000) * 100, "fc": torch.randn(1005), "output": torch.zeros(5000)}
    masks = P.prune(weights, {"conv": ["conv"], "fc": ["fc"]}, {"conv": 0.2, "fc": 0.2})
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == {"conv": 200, "fc": 201}


def test_d_what_is_pruned_stays_pruned_and_survivors_come_from_the_mask() -> None:
    weights = torch.randn(1000).abs() + 0.1
    before = P.prune({"w": weights}, {"fc": ["w"]}, 0.5)["w"]
    weights[~before] = 1e6  # large at masked positions
    live = before.nonzero().ravel()[:300]
    weights[live] = 0.0  # zero at live ones: still survivors
    after = P.prune({"w": weights}, {"fc": ["w"]}, 0.2, {"w": before})["w"]
    assert int(after.sum()) == 400
    assert not (after & ~before).any()
    assert torch.equal((before & ~after).nonzero().ravel(), live[:100])


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


def test_g_pools_are_by_module_type() -> None:
    assert P.pools_by_type(network(), include_output=True) == {
        "conv": ["conv1.weight", "conv1.bias", "head.weight", "head.bias"],
        "fc": ["fc.weight", "fc.bias", "output.weight", "output.bias"],
    }


def test_h_weights_and_biases_are_ranked_together() -> None:
    model = network()
    with torch.no_grad():
        model.head.bias[2] = 1e-9
    masks = prune(model, 0.1)
    names = P.pools_by_type(model)["conv"]
    assert not masks["head.bias"][2]
    values = torch.cat([model.get_parameter(n).detach().abs().ravel() for n in names])
    kept = torch.cat([masks[n].ravel() for n in names])
    threshold = values.kthvalue(len(values) // 10).values
    assert torch.equal(kept, values > threshold)


@pytest.mark.parametrize("kind", ["adam-l2", "adamw"])
def test_i_weight_decay_moves_no_masked_weight(kind: str) -> None:
    model = network()
    masks = prune(model)
    optimizer = OPTIMIZERS[kind](model, masks)
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in network().named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for _ in range(3):
        optimizer.step()
    assert (masked(dict(model.named_parameters()), masks) == 0).all()
    weights = dict(network().named_parameters())
    frozen = P.MaskedAdam(weights.items(), masks, lr=0.1, weight_decay=0.1, pruned="frozen")
    before = {n: p.detach().clone() for n, p in weights.items()}
    for p in weights.values():
        p.grad = torch.zeros_like(p)
    frozen.step()
    assert torch.equal(masked(weights, masks), masked(before, masks))


def test_q_copies_pickles_and_dense_networks() -> None:
    model = network()
    masks = prune(model)
    optimizer = OPTIMIZERS["adam-l2"](model, masks)
    train(model, optimizer, 2)
    for twin, other in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        train(twin, other, 2, seed=1)
        assert (masked(dict(twin.named_parameters()), masks) == 0).all()
        assert (moments(twin, other, masks) == 0).all()
    dense = network()
    dense.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(dense.eval()(x), model.eval()(x))
    assert all(torch.equal(P.unpack(P.pack(masks), dense)[n], m) for n, m in masks.items())


def test_r_memory_does_not_grow_with_the_levels() -> None:
    model = network()
    optimizer = OPTIMIZERS["adam-l2"](model, {})
    masks: dict[str, Tensor] | None = None
    sizes = []
    for level in range(20):
        train(model, optimizer, 1, seed=level)
        masks = prune(model, 0.1, masks)
        optimizer.set_masks(masks)
        sizes.append((len(pickle.dumps((model, optimizer))), sum(m.untyped_storage().nbytes() for m in masks.values())))
    assert len(set(sizes)) == 1
    assert sizes[0][1] == sum(m.numel() for m in masks.values())


def test_s_masks_are_equal_on_all_ranks() -> None:
    # Ranks may differ in their threads and instruction sets, never in their masks: ties everywhere.
    g = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randint(-4, 4, (n,), generator=g).float() for name, n in (("a", 90000), ("b", 31), ("c", 70000))
    }
    threads, level = torch.get_num_threads(), pc.cpu_level()
    levels = ["baseline", "avx2", "avx512"]
    digests = set()
    try:
        for count in (1, 2, 3, 5):
            for name in levels[: levels.index(str(pc.build_info()["cpu_level_best"])) + 1]:
                torch.set_num_threads(count)
                pc.set_cpu_level(name)
                first = P.prune(weights, {"fc": list(weights)}, 0.3)
                digests.add(digest(P.prune(weights, {"fc": list(weights)}, 0.3, first)))
    finally:
        torch.set_num_threads(threads)
        pc.set_cpu_level(level)
    assert len(digests) == 1


def test_t_a_collapsed_layer_is_reported() -> None:
    model = network()
    with torch.no_grad():
        model.head.weight.mul_(1e-6)
    with pytest.warns(P.LayerCollapseWarning, match=r"parameter 'head\.weight' has lost its last weight"):
        masks = prune(model, 0.9)
    densities = P.density_per_layer(masks)
    assert densities["head.weight"] == 0
    assert densities["conv1.weight"] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune(model, 0.1, masks)  # said once, not at every level
