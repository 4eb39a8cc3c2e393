"""Pools, masks, densities, packing: what a user of `pc.pruning` sees."""

from __future__ import annotations

import copy
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(4 * 64, 16),
        nn.BatchNorm1d(16),
        nn.Linear(16, 4),
    )


def named(*sizes: int) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    tensors = {f"t{i}.weight": torch.randn(n) for i, n in enumerate(sizes)}
    return tensors, {"fc": list(tensors)}


def kept(masks: dict[str, Tensor]) -> int:
    return sum(int(m.sum()) for m in masks.values())


def test_pools_are_by_type_and_leave_the_output_out() -> None:
    pools = P.pools_by_type(network())
    assert pools == {"conv": ["0.weight", "0.bias", "3.weight", "3.bias"], "fc": ["5.weight", "5.bias"]}
    assert P.pools_by_type(network(), include_output=True)["fc"][-2:] == ["7.weight", "7.bias"]


def test_shared_parameters_are_pooled_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    assert P.pools_by_type(model)["fc"] == ["0.weight", "0.bias", "1.bias"]
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight  # the output layer's, so it stays out
    assert P.pools_by_type(tied)["fc"] == ["0.bias"]


def test_lazy_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'0.weight' has no shape yet"):
        P.pools_by_type(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    n=st.integers(0, 400),
    rate=st.one_of(st.floats(0, 1), st.decimals(0, 1, places=2).map(float)),
    seed=st.integers(0, 99),
    distinct=st.integers(1, 50),
)
def test_exactly_floor_of_rate_times_survivors(n: int, rate: float, seed: int, distinct: int) -> None:
    g = torch.Generator().manual_seed(seed)
    weights = {"w": torch.randint(-distinct, distinct, (n,), generator=g) / 7}
    before = {"w": torch.rand(n, generator=g) > 0.3}
    survivors = int(before["w"].sum())
    expected = survivors - (Fraction(repr(rate)) * survivors).__floor__()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", P.LayerCollapseWarning)
        after = P.prune(weights, {"fc": ["w"]}, rate, before)
    assert kept(after) == expected
    assert not (after["w"] & ~before["w"]).any()
    lowest_kept = weights["w"].abs()[after["w"]].min() if expected else torch.tensor(float("inf"))
    gone = before["w"] & ~after["w"]
    assert not gone.any() or weights["w"].abs()[gone].max() <= lowest_kept


def test_rates_count_as_written() -> None:
    weights, pools = named(100)
    for percent in range(101):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", P.LayerCollapseWarning)
            assert kept(P.prune(weights, pools, percent / 100)) == 100 - percent


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), float("inf")])
def test_rate_outside_the_unit_interval(rate: float) -> None:
    weights, pools = named(10)
    with pytest.raises(ValueError, match=r"pruning rate of pool 'fc' is .*; expected a fraction in"):
        P.prune(weights, pools, rate)


def test_rates_and_pools_must_agree() -> None:
    weights, pools = named(10)
    with pytest.raises(ValueError, match="pool 'fc' has no rate"):
        P.prune(weights, pools, {})
    with pytest.raises(ValueError, match="pool 'conv' has a rate, but does not exist"):
        P.prune(weights, pools, {"fc": 0.1, "conv": 0.1})
    with pytest.raises(ValueError, match="'x' does not exist"):
        P.prune(weights, {"fc": ["x"]}, 0.1)
    with pytest.raises(ValueError, match=r"'t0.weight' is pooled twice"):
        P.prune(weights, {"fc": ["t0.weight"], "more": ["t0.weight"]}, 0.1)
    with pytest.raises(ValueError, match="scope 'pools' is unknown; expected one of pool, layer, global"):
        P.prune(weights, pools, 0.1, scope="pools")


def test_masks_that_do_not_fit() -> None:
    weights, pools = named(10)
    with pytest.raises(TypeError, match=r"mask 't0.weight' is torch.float32; expected a tensor of dtype torch.bool"):
        P.prune(weights, pools, 0.1, {"t0.weight": torch.ones(10)})
    with pytest.raises(ValueError, match=r"mask 't0.weight' has shape \(9,\); expected that of its parameter, \(10,\)"):
        P.prune(weights, pools, 0.1, {"t0.weight": torch.ones(9, dtype=torch.bool)})
    with pytest.raises(TypeError, match=r"dtype torch\.int64"):
        P.prune({"w": torch.arange(3)}, {"fc": ["w"]}, 0.5)


def test_nan_names_the_parameter() -> None:
    model = network()
    with torch.no_grad():
        model[5].bias[3] = float("nan")
    with pytest.raises(ValueError, match=r"parameter '5.bias' has a NaN score"):
        P.prune(model, P.pools_by_type(model), 0.1)


def test_previous_masks_of_other_parameters_are_carried_over() -> None:
    weights, pools = named(10)
    other = torch.tensor([True, False])
    assert P.prune(weights, pools, 0.2, {"output.weight": other})["output.weight"] is other


def test_ties_go_by_the_pools_order_not_the_models() -> None:
    weights = {"a": torch.ones(3), "b": torch.ones(3)}
    masks = P.prune(weights, {"fc": ["b", "a"]}, 0.34)
    assert list(masks) == ["b", "a"]
    assert masks["b"].tolist() == [False, False, True]
    assert masks["a"].all()


@pytest.mark.filterwarnings("ignore::prunecca.pruning.LayerCollapseWarning")
def test_memory_order_does_not_change_the_mask() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.mul(4).round())  # many ties
    pools = P.pools_by_type(model)
    plain = P.prune(model, pools, 0.37)
    last = P.prune(model.to(memory_format=torch.channels_last), pools, 0.37)
    for name in plain:
        assert torch.equal(plain[name], last[name])
    again = P.prune(
        model, pools, 0.37, {n: m.to(memory_format=torch.channels_last) if m.ndim == 4 else m for n, m in plain.items()}
    )
    assert kept(again) < kept(plain)
    assert not any((again[n] & ~plain[n]).any() for n in plain)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_and_mixtures(dtype: torch.dtype) -> None:
    weights = {"a": torch.randn(500).to(dtype), "b": torch.randn(300)}
    masks = P.prune(weights, {"fc": ["a", "b"]}, 0.5)
    flat = torch.cat([weights["a"].double(), weights["b"].double()]).abs().numpy()
    gone = np.argsort(flat, kind="stable")[:400]
    expected = np.ones(800, bool)
    expected[gone] = False
    np.testing.assert_array_equal(torch.cat([masks["a"], masks["b"]]).numpy(), expected)


def test_scopes() -> None:
    weights = {
        "a.weight": torch.arange(1.0, 11),
        "a.bias": torch.full((2,), 100.0),
        "b.weight": torch.arange(101.0, 111),
    }
    pools = {"conv": ["a.weight", "a.bias"], "fc": ["b.weight"]}
    layer = P.prune(weights, pools, {"conv": 0.5, "fc": 0.2}, scope="layer")
    assert [int(m.sum()) for m in layer.values()] == [4, 2, 8]
    everything = P.prune(weights, pools, 0.25, scope="global")
    assert [int(m.sum()) for m in everything.values()] == [5, 2, 10]  # floor(22 / 4) smallest, all in one tensor
    with pytest.raises(ValueError, match="expected one rate for all pools"):
        P.prune(weights, pools, {"conv": 0.5, "fc": 0.2}, scope="global")


def test_criteria_keep_what_they_say() -> None:
    final = torch.tensor([1.0, -2.0, 3.0, -4.0])
    initial = torch.tensor([-4.0, -3.0, 2.0, 1.5])
    keeps = {
        "large_final": [2, 3],
        "small_final": [0, 1],
        "large_init": [0, 1],
        "small_init": [2, 3],
        "large_init_large_final": [1, 2],  # min: 1 2 2 1.5
        "small_init_small_final": [1, 2],  # max: 4 3 3 4
        "magnitude_increase": [2, 3],  # -3 -1 1 2.5
        "movement": [0, 3],  # 5 1 1 5.5
        "large_final_same_sign": [1, 2],  # -1 2 3 -4
        "score": [0, 2],
    }
    assert set(keeps) | {"random"} == set(P.CRITERIA)
    for criterion, expected in keeps.items():
        (mask,) = P.prune({"w": final}, {"fc": ["w"]}, 0.5, criterion=criterion, initial={"w": initial}).values()
        assert mask.nonzero().ravel().tolist() == expected, criterion


def test_random_criterion_is_the_seeds() -> None:
    weights, pools = named(5000, 300)
    masks = [P.prune(weights, pools, 0.3, criterion="random", seed=s) for s in (1, 1, 2)]
    assert all(torch.equal(masks[0][n], masks[1][n]) for n in weights)
    assert not torch.equal(masks[0]["t0.weight"], masks[2]["t0.weight"])
    assert 0.66 < P.density_per_layer(masks[0])["t0.weight"] < 0.74
    second = P.prune(weights, pools, 0.3, masks[0], criterion="random", seed=1)
    assert kept(second) == 3710 - 1113
    assert not any((second[n] & ~masks[0][n]).any() for n in weights)


def test_criterion_errors() -> None:
    weights, pools = named(10)
    with pytest.raises(ValueError, match="criterion 'largest' is unknown; expected one of large_final"):
        P.prune(weights, pools, 0.1, criterion="largest")
    with pytest.raises(ValueError, match=r"criterion 'movement' needs the initial value of 't0.weight'"):
        P.prune(weights, pools, 0.1, criterion="movement")
    with pytest.raises(ValueError, match=r"initial value of 't0.weight' has shape \(3,\)"):
        P.prune(weights, pools, 0.1, criterion="movement", initial={"t0.weight": torch.ones(3)})


def test_density() -> None:
    masks = {
        "a": torch.tensor([True, False, False, False]),
        "b": torch.ones(2, 2, dtype=torch.bool),
        "c": torch.ones(0, dtype=torch.bool),
    }
    assert P.density(masks) == 5 / 8
    assert P.density_per_layer(masks) == {"a": 0.25, "b": 1.0, "c": 1.0}
    assert P.density({}) == 1.0
    assert P.density(P.full_masks(network(), P.pools_by_type(network()))) == 1.0
    assert P.density({"t": torch.eye(300, 400).bool().T}) == 300 / 120000


def test_more_entries_than_32_bits_count() -> None:
    # Untouched zeros take no memory: they are read from the system's one page of zeros.
    mask = torch.from_numpy(np.zeros(2**31 + 11, dtype=np.bool_))
    mask[-9:-2] = True
    mask[3] = True
    assert P.density({"m": mask}) == 8 / (2**31 + 11)


def test_apply_masks_writes_positive_zero() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[0] = -0.0
        model[0].weight[1] = float("nan")
    masks = P.full_masks(model, P.pools_by_type(model))
    masks["0.weight"][:2] = False
    P.apply_masks(model, masks)
    zeros = model[0].weight[:2]
    assert (zeros == 0).all()
    assert not torch.signbit(zeros).any()
    assert (model[0].weight[2:] != 0).any()
    with pytest.raises(ValueError, match="mask 'x' has no parameter"):
        P.apply_masks(model, {"x": masks["0.weight"]})


def test_apply_masks_to_any_layout() -> None:
    base = torch.randn(6, 8, 4, 4)
    mask = torch.rand(6, 8, 4, 4) > 0.5
    for tensor in (
        base.clone(),
        base.clone().to(memory_format=torch.channels_last),
        base.double(),
        base.bfloat16(),
        torch.randn(8, 6, 4, 4).transpose(0, 1),
        torch.randn(6, 8, 4, 9)[..., ::2][..., :4],
    ):
        expected = torch.where(mask, tensor, 0)
        P.apply_masks({"w": tensor}, {"w": mask})
        assert torch.equal(tensor, expected)


def test_autograd_notices_that_weights_changed() -> None:
    w = torch.randn(4, requires_grad=True)
    loss = (w * w).sum()
    P.apply_masks({"w": w}, {"w": torch.tensor([True, False, True, False])})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("shape", [(0,), (), (1,), (7,), (8,), (9,), (3, 5, 7), (64, 3, 3, 3)])
def test_packing_is_one_bit_and_round_trips(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape) > 0.5
    packed = P.pack({"m": mask})
    assert packed["m"].dtype == torch.uint8
    assert packed["m"].numel() == -(-mask.numel() // 8)
    assert torch.equal(P.unpack(packed, {"m": shape})["m"], mask)
    assert torch.equal(P.unpack(packed, {"m": torch.zeros(shape)})["m"], mask)


def test_packing_order_is_documented() -> None:
    mask = torch.zeros(10, dtype=torch.bool)
    mask[[0, 3, 9]] = True
    assert P.pack({"m": mask})["m"].tolist() == [0b00001001, 0b00000010]
    strided = torch.zeros(2, 5, dtype=torch.bool).T.contiguous().T  # row-major whatever the memory
    strided[0, 3] = True
    assert P.pack({"m": strided})["m"].tolist() == [8, 0]


def test_damaged_bits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected uint8 of 2 bytes for shape \(9,\)"):
        P.unpack({"m": torch.zeros(3, dtype=torch.uint8)}, {"m": (9,)})
    with pytest.raises(ValueError, match="bits set past its 9 entries"):
        P.unpack({"m": torch.tensor([0, 255], dtype=torch.uint8)}, {"m": (9,)})
    with pytest.raises(ValueError, match="packed mask 'm' has no parameter"):
        P.unpack({"m": torch.zeros(3, dtype=torch.uint8)}, network())


def test_pruning_leaves_its_inputs_alone() -> None:
    model = network()
    pools = P.pools_by_type(model)
    first = P.prune(model, pools, 0.2)
    weights, masks = copy.deepcopy(model.state_dict()), {n: m.clone() for n, m in first.items()}
    P.prune(model, pools, 0.2, first)
    assert all(torch.equal(v, weights[n]) for n, v in model.state_dict().items())
    assert all(torch.equal(v, masks[n]) for n, v in first.items())
