"""The scope of whole channels, against exact fractions: ties, zeros of both signs, denormals, channels partly or wholly dead."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunecca as pc
from prunecca.methods.channels import channel_sums
from prunecca.pruning.criteria import CRITERIA
from prunecca.study.options import Options

P = pc.pruning
TINY = 2.0**-149  # the smallest float32 above 0
VALUES = [0.0, -0.0, TINY, -TINY, 3 * TINY, 2.0**-127, 0.1, 0.2, -0.3, 0.5, 1.0, -1.0, 2.0, 1e30]
NAMES = ["w", "bias"]


def by_hand(score: Tensor, alive: Tensor, rate: str) -> list[int]:
    """The channels that stay: sums in exact fractions, rounded once."""
    sums = {}
    for channel, (values, living) in enumerate(zip(score, alive, strict=True)):
        kept = values[living].flatten().tolist()
        if kept:
            sums[channel] = float(sum(map(Fraction, kept), Fraction()))
    ranked = sorted(sums, key=lambda c: (sums[c], c))
    return sorted(ranked[math.floor(Fraction(rate) * len(ranked)) :])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    rate=st.sampled_from(["0", "0.2", "0.29", "0.5", "1/3", "1"]),
    criterion=st.sampled_from([name for name in CRITERIA if name != "random"]),
)
def test_exact_counts_and_order(shape: list[int], seed: int, rate: str, criterion: str) -> None:
    g = torch.Generator().manual_seed(seed)
    final, initial = (torch.tensor(VALUES)[torch.randint(len(VALUES), tuple(shape), generator=g)] for _ in range(2))
    alive = torch.rand(tuple(shape), generator=g) < 0.6
    bias = torch.rand(shape[0], generator=g) < 0.8
    chosen = CRITERIA[criterion]
    score = chosen.score(final, initial, 1.0)
    score = score if chosen.signed else score.abs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", P.LayerCollapseWarning)
        got = P.prune(
            {"weight": final, "bias": torch.ones(shape[0])},
            {"all": ["bias", "weight"]},
            rate,
            {"weight": alive, "bias": bias},
            criterion=criterion,
            initial={"weight": initial, "bias": torch.ones(shape[0])},
            scope="channel",
        )
    stays = torch.zeros(shape[0], dtype=torch.bool)
    stays[by_hand(score, alive, rate)] = True
    assert torch.equal(got["weight"], alive & stays.reshape(-1, *[1] * (len(shape) - 1)))
    assert torch.equal(got["bias"], bias & stays)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_criterion_and_dtype_leaves_the_same_counts(criterion: str, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(1)
    weights = {"c.weight": torch.randn(10, 3, 3, 3, generator=g).to(dtype), "c.bias": torch.randn(10, generator=g)}
    initial = {name: tensor.flip(0) for name, tensor in weights.items()}
    masks = P.prune(weights, {"all": list(weights)}, 0.29, criterion=criterion, initial=initial, scope="channel")
    kept = masks["c.weight"].flatten(1)
    assert torch.equal(kept.all(1), kept.any(1))
    assert torch.equal(kept.all(1), masks["c.bias"])
    assert int(masks["c.bias"].sum()) == 10 - 2


def test_iterating_leaves_what_one_shot_leaves() -> None:
    model = pc.models.build("cifar2", seed=0)
    pools, rates = P.pools_by_type(model), {"conv": 0.1, "fc": 0.2}
    recipe, masks = P.Recipe(rates=rates, scope="channel"), None
    for level in range(1, 5):
        masks = P.next_masks(recipe, pools, model, masks, level)
    at_once = P.next_masks(P.recipe_named("structured", rates=rates, one_shot=True), pools, model, None, 4)
    assert masks is not None
    assert all(torch.equal(masks[name], at_once[name]) for name in masks)
    counts = {name: int(mask.flatten(1).any(1).sum()) for name, mask in masks.items() if mask.dim() > 1}
    assert counts == {"conv1.0.weight": 12, "conv2.0.weight": 12, "fc1.0.weight": 106}
    norms = model.conv2[0].weight.detach().double().abs().flatten(1).sum(1)
    assert masks["conv2.0.weight"].flatten(1).all(1).nonzero().flatten().tolist() == sorted(
        norms.argsort()[4:].tolist()
    )


def test_a_sum_depends_on_the_values_alone() -> None:
    line = torch.tensor([1e30, 1.0, -1e30, 2.0**-60, 0.1, 3.0])
    rows = torch.stack([line, line.flip(0), line.roll(2)])
    assert channel_sums(rows) == [float(sum(map(Fraction, line.tolist()), Fraction()))] * 3
    masks = P.prune({"weight": rows.abs()}, {"all": ["weight"]}, "1/3", scope="channel")
    assert masks["weight"].any(1).tolist() == [False, True, True]
    last = torch.randint(-3, 3, (6, 4, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    plain, other = (
        P.prune({"w": w}, {"all": ["w"]}, 0.5, scope="channel")["w"]
        for w in (last, last.to(memory_format=torch.channels_last))
    )
    assert torch.equal(plain, other)


def test_sums_beyond_the_largest_number() -> None:
    big = torch.tensor([[1e308, 1e308], [-1e308, -1e308], [1.0, float("inf")], [1.0, 2.0]], dtype=torch.float64)
    assert channel_sums(big) == [math.inf, -math.inf, math.inf, 3.0]
    assert math.isnan(channel_sums(torch.tensor([[math.inf, -math.inf]]))[0])


def test_denormals_count_as_what_they_are_even_where_the_processor_flushes_them() -> None:
    weight = torch.tensor([[2 * TINY, 0.0], [TINY, TINY], [TINY, 0.0], [0.0, 3 * TINY]])
    assert torch.set_flush_denormal(True)
    try:
        mask = P.prune({"w": weight}, {"all": ["w"]}, 0.5, scope="channel")["w"]
        assert torch.tensor(TINY).item() == 0.0
    finally:
        torch.set_flush_denormal(False)
    assert mask.any(1).tolist() == [False, True, False, True]


def test_a_bias_goes_with_its_weight_by_any_of_its_names() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
    model = nn.ModuleDict({"a": layer, "b": nn.LSTM(2, 3), "c": nn.MultiheadAttention(4, 2)})
    masks = P.prune(model, P.pools_by_type(model, include_output=True), 0.5, scope="channel")
    for weight, bias in (
        ("a.parametrizations.weight.original", "a.bias"),
        ("b.weight_hh_l0", "b.bias_hh_l0"),
        ("c.in_proj_weight", "c.in_proj_bias"),
        ("c.out_proj.weight", "c.out_proj.bias"),
    ):
        assert torch.equal(masks[weight].all(1), masks[bias])
        assert int(masks[bias].sum()) == math.ceil(len(masks[bias]) / 2)


def test_batch_norm_in_a_pool_of_ones_own_is_cut_by_its_weight() -> None:
    norm = nn.BatchNorm2d(4)
    norm.weight.data = torch.tensor([3.0, -1.0, 0.5, 2.0])
    masks = P.prune(norm, {"scales": ["weight", "bias"]}, 0.5, scope="channel")
    assert masks["weight"].tolist() == masks["bias"].tolist() == [True, False, False, True]


def test_a_nan_is_an_error_only_where_it_is_alive() -> None:
    weight, alive = torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool)
    weight[1, 2], alive[1, 2] = float("nan"), False
    assert int(P.prune({"w": weight}, {"all": ["w"]}, 0.5, {"w": alive}, scope="channel")["w"].sum()) == 4
    with pytest.raises(ValueError, match="parameter 'w' has a NaN score"):
        P.prune({"w": weight}, {"all": ["w"]}, 0.5, scope="channel")


def test_layers_whose_channels_are_elsewhere() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 2), nn.Embedding(4, 4))
    pools = P.pools_by_type(model, include_output=True, include_embeddings=True)
    for index, kind in ((1, "ConvTranspose2d"), (2, "Embedding")):
        said = (
            f"scope 'channel' cannot cut '{index}.weight': the output channels of a {kind} are not along the first "
            "dimension; leave it out of the pools"
        )
        with pytest.raises(ValueError, match=said):
            P.prune(model, {"all": [f"{index}.weight"]}, 0.5, scope="channel")
    with pytest.raises(ValueError, match=r"cannot cut '1.weight'"):
        next(P.imp(model, P.Recipe(rates=0.5, scope="channel"), lambda *_: None, lambda *_: None, pools=pools))
    given = {"up.weight": torch.ones(4, 2, 2, 2), "up.bias": torch.ones(2)}
    with pytest.raises(
        ValueError, match=r"'up.weight' of shape \(4, 2, 2, 2\) and 'up.bias' of shape \(2,\); expected"
    ):
        P.prune(given, {"all": list(given)}, 0.5, scope="channel")


def test_all_channels_gone_is_told() -> None:
    with pytest.warns(P.LayerCollapseWarning, match="parameter 'w' has lost its last weight"):
        P.prune({"w": torch.ones(3, 2)}, {"all": ["w"]}, 1, scope="channel")


def test_the_flag_and_the_recipe() -> None:
    for options in (Options.from_flags(recipe="structured"), Options.from_flags(scope="channel")):
        assert options.recipe == P.recipe_named("structured")
        assert options.flags()["scope"] == "channel"
        assert Options.from_json(options.as_json()) == options
