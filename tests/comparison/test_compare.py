"""compare(): the right numbers whatever the batching, and errors that name their cause."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import reference
import torch
from networks import IMAGES, cut, network, values
from representations import OF_ONE_PASS
from torch import Tensor, nn

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


def activations(model: nn.Module, name: str) -> Any:
    seen: list[Tensor] = []
    model = copy.deepcopy(model).eval()
    handle = model.get_submodule(name).register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    with torch.no_grad():
        model(IMAGES)
    handle.remove()
    return reference.rows(seen[0].numpy())


def test_values_agree_with_the_full_activations() -> None:
    model, others = network(), {"a": network(1), "b": network(2, width=9)}
    names = ["svcca", "linear_cka", "debiased_cka", "nbs", "procrustes", "linear_regression", "cca", "pwcca"]
    table = pc.compare(model, others, cut(IMAGES, 16), metrics=names).table
    assert list(table.columns) == [
        "candidate", "layer", "kind", "depth", "metric", "value", "count", "channels", "kept_x", "kept_y",
        "layout", "points", "channels_x", "channels_y", "layer_y", "depth_y", "sampled", "reliable",
    ]  # fmt: skip
    assert table["candidate"].tolist() == ["a"] * 32 + ["b"] * 32
    assert table["layer"].drop_duplicates().tolist() == ["2", "3", "5", "8"]
    found = values(table)
    for name, other in others.items():
        for layer in ("2", "3", "5", "8"):
            x, y = activations(model, layer), activations(other, layer)
            expected = reference.cca(x, y, 1e-6, 0.99)
            assert found[name, layer, "svcca"] == pytest.approx(expected.mean(), abs=2e-6)
            expected = {
                "linear_cka": reference.linear_cka(x[:2000], y[:2000]) if len(x) <= 2000 else None,
                "nbs": reference.nbs(x, y) if len(x) <= 2200 else None,
            }
            for metric, value in expected.items():
                if value is not None:
                    assert found[name, layer, metric] == pytest.approx(value, abs=2e-6)
    row = table[(table.layer == "2") & (table.candidate == "b") & (table.metric == "svcca")].iloc[0]
    assert (row["kind"], row["depth"], row["count"], row["channels"]) == ("conv", 0, 60 * 144, 6)
    assert row["kept_y"] > row["kept_x"] > 0
    assert table[table.metric == "nbs"]["kept_x"].isna().all()


def test_a_network_is_1_with_itself() -> None:
    model = network()
    table = pc.compare(model, [model, copy.deepcopy(model)], cut(IMAGES, 16), metrics=OF_ONE_PASS).table
    assert table["candidate"].unique().tolist() == ["0", "1"]
    distance = table["metric"].str.contains("distance|angular|gulp")
    assert (table["value"] - 1)[~distance].abs().max() < 1e-6
    assert table["value"][distance].abs().max() < 2e-3  # an angle of 0 is the root of what rounding leaves


def test_batch_size_and_order_do_not_matter() -> None:
    model, other = network(), network(1)
    expected = values(pc.compare(model, other, cut(IMAGES, 60)).table)
    shuffled = IMAGES[torch.randperm(60)]
    for loader in (cut(IMAGES, 7), cut(IMAGES, 1), cut(shuffled, 13), iter(cut(IMAGES, 7)), IMAGES):
        found = values(pc.compare(model, other, loader).table)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key] == pytest.approx(value, abs=1e-6)


def test_stops_after_max_datapoints() -> None:
    model, other = network(), network(1)
    table = pc.compare(model, other, cut(IMAGES, 16), max_datapoints=40).table
    assert set(table[table.layer == "8"]["count"]) == {40}
    expected = values(pc.compare(model, other, cut(IMAGES[:40], 40)).table)
    for key, value in values(table).items():
        assert value == pytest.approx(expected[key], abs=1e-6)

    def endless() -> Iterator[Tensor]:
        while True:
            yield IMAGES

    assert pc.compare(model, other, endless(), "8", max_datapoints=90).table["count"].tolist() == [90]


def test_a_dead_layer_is_nan_and_the_others_are_not() -> None:
    model, other = network(), network(1)
    with torch.no_grad():
        other[7].weight.zero_()
        other[7].bias.fill_(-1.0)
    table = pc.compare(model, other, cut(IMAGES, 20), metrics=OF_ONE_PASS).table
    assert table[table.layer == "8"]["value"].isna().all()
    assert table[table.layer != "8"]["value"].notna().all()


def test_metric_options_and_kept_covariances() -> None:
    model, other = network(), network(1)
    result = pc.compare(
        model, {"o": other}, cut(IMAGES, 20), metrics={"svcca": {"variance": 0.9, "trim": 0.98}}, keep_covariances=True
    )
    cov = result.covariances["o", "5"]
    row = result.table[result.table.layer == "5"].iloc[0]
    assert row["value"] == pytest.approx(pc.svcca(cov, variance=0.9, trim=0.98).mean, abs=1e-12)
    assert pc.compare(model, other, cut(IMAGES, 20)).covariances == {}


def test_float64_products_are_used_when_asked_for() -> None:
    result = pc.compare(network(), network(1), IMAGES, "8", "cca", precision="float64", keep_covariances=True)
    assert result.covariances["candidate", "8"].precision == "float64"


def test_progress_is_told_after_every_batch() -> None:
    told: list[tuple[int, int | None]] = []
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES), batch_size=25)
    pc.compare(network(), network(1), data, progress=lambda *p: told.append(p))
    assert told == [(25, 60), (50, 60), (60, 60)]
    told.clear()
    pc.compare(network(), network(1), data, max_datapoints=30, progress=lambda *p: told.append(p))
    assert told == [(25, 30), (30, 30)]
    pc.compare(network(), network(1), data, progress=True)


def _small_images(model: nn.Module) -> Any:
    return nn.Sequential(*model[:3], nn.MaxPool2d(3), *model[4:6])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"loader": []}, ValueError, "the loader gave no inputs; expected at least one batch"),
        ({"loader": [IMAGES[:0]]}, ValueError, "the loader gave no inputs"),
        (
            {"loader": [{"image": IMAGES}]},
            TypeError,
            "Sequential takes input but a batch has the keys 'image'; expected keys that it takes, or forward=",
        ),
        (
            {"loader": [({"image": "a"}, 1)]},
            TypeError,
            "batch 0 of the loader is a tuple that starts with a dict; expected",
        ),
        ({"loader": IMAGES[:1], "layers": "8"}, ValueError, "layer '8': a covariance needs at least 2 datapoints"),
        ({"candidates": {}}, ValueError, "there are no candidates"),
        ({"candidates": {"a": "model"}}, TypeError, "candidate 'a' is a str; expected a torch.nn.Module"),
        ({"candidates": 3}, TypeError, "candidates is a int"),
        ({"candidates": nn.Sequential(nn.Conv2d(3, 6, 3))}, ValueError, "candidate 'candidate' has no layer '2'"),
        ({"metrics": {"cca": 0.98}}, TypeError, "metric 'cca' is given 0.98; expected a mapping of its options"),
        ({"metrics": "ccca"}, ValueError, "there is no metric 'ccca'; expected some of svcca, cca"),
        ({"metrics": []}, ValueError, "no metric was given"),
        ({"metrics": {"nbs": {"trim": 1}}}, ValueError, "metric 'nbs' has no option 'trim'; expected none"),
        ({"metrics": {"cca": {"k": 1}}}, ValueError, "metric 'cca' has no option 'k'; expected tol or trim"),
        ({"layers": "nine"}, ValueError, "there is no layer 'nine'"),
        ({"max_datapoints": 0}, ValueError, "max_datapoints is 0; expected at least 1"),
        ({"distributed": "yes"}, ValueError, "distributed is 'yes'; expected 'shard', 'sharded' or 'off'"),
        ({"precision": "half"}, ValueError, "expected 'float32' or 'float64'"),
        (
            {"candidates": {"s": _small_images(network(1))}, "layers": "5"},
            ValueError,
            r"layer '5' has shape \(20, 8, 6, 6\) in the reference and \(20, 8, 4, 4\) in candidate 's'",
        ),
        ({"candidates": network(1).to("meta")}, TypeError, "candidate 'candidate' has .* on the meta device"),
    ],
)
def test_errors_say_what_was_wrong(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    model = network().train()
    given = {"candidates": network(1), "loader": cut(IMAGES, 20)} | arguments
    with pytest.raises(error, match=words):
        pc.compare(model, **given)
    assert all(m.training and not m._forward_hooks for m in model.modules())


@pytest.fixture
def ieee_convolutions() -> Iterator[None]:
    """Of float32 in full: by default cuDNN rounds to TF32."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    yield
    torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.cuda
@pytest.mark.usefixtures("ieee_convolutions")
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_cuda_agrees_with_the_host(memory: torch.memory_format) -> None:
    model, others = network(), [network(1), network(2)]
    expected = pc.compare(model, others, IMAGES, metrics=OF_ONE_PASS).table
    for each in (model, *others):
        each.to(memory_format=memory)
    found = pc.compare(model, others, IMAGES, metrics=OF_ONE_PASS, device="cuda").table
    assert (found["value"] - expected["value"]).abs().max() < 1e-4
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.cuda
def test_a_comparison_on_the_last_device() -> None:
    last = f"cuda:{torch.cuda.device_count() - 1}"
    table = pc.compare(network(), [network(1)], IMAGES, device=last).table
    assert table["value"].between(0, 1).all()
