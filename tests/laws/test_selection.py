"""Exactly the right weights go: what implementations get wrong in choosing them."""

from __future__ import annotations

import warnings

import pytest
import torch
from pitfalls import digest, network, prune
from torch import Tensor

import prunecca as pc

P = pc.pruning


pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_s_masks_are_equal_on_all_ranks() -> None:
    # Ranks may differ in their threads and instruction sets, never in their masks: ties everywhere.
    g = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randint(-4, 4, (n,), generator=g).float() for name, n in (("a", 90000), ("b", 31), ("c", 70000))
    }
    threads, level = torch.get_num_threads(), pc.cpu_level()
    levels, best = ["baseline", "avx2", "avx512"], str(pc.build_info()["cpu_level_best"])
    digests = set()
    try:
        for count in (1, 2, 3, 5):
            for name in levels[: levels.index(best) + 1] if best in levels else levels:
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
