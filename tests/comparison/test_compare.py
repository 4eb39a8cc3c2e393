"""compare(): the right numbers whatever the batching, models left as they were, and errors that name their cause."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import reference
import torch
import waiting
from networks import IMAGES, network
from torch import Tensor, nn

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


def cut(images: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return [(part, torch.zeros(len(part))) for part in images.split(size)]


def activations(model: nn.Module, name: str) -> Any:
    seen: list[Tensor] = []
    model = copy.deepcopy(model).eval()
    handle = model.get_submodule(name).register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    with torch.no_grad():
        model(IMAGES)
    handle.remove()
    return reference.rows(seen[0].numpy())


def values(table: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    return {(r.candidate, r.layer, r.metric): r.value for r in table.itertuples()}


def test_values_agree_with_the_full_activations() -> None:
    model, others = network(), {"a": network(1), "b": network(2, width=9)}
    names = ["svcca", "linear_cka", "debiased_cka", "nbs", "procrustes", "linear_regression", "cca", "pwcca"]
    table = pc.compare(model, others, cut(IMAGES, 16), metrics=names).table
    assert list(table.columns) == [
        "candidate", "layer", "kind", "depth", "metric", "value", "count", "channels", "kept_x", "kept_y",
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
    table = pc.compare(model, [model, copy.deepcopy(model)], cut(IMAGES, 16), metrics=list(pc.METRICS)).table
    assert table["candidate"].unique().tolist() == ["0", "1"]
    assert (table["value"] - 1).abs().max() < 1e-6


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


def test_modes_and_hooks_are_as_before() -> None:
    model, other = network().train(), network(1).train()
    model[1].eval()
    pc.compare(model, other, cut(IMAGES, 20))
    assert [m.training for m in model] == [True, False] + [True] * 9
    assert other.training
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(model[1].running_mean, network()[1].running_mean)
    assert not any(m._forward_hooks for m in [*model.modules(), *other.modules()])


def test_interrupted_it_leaves_the_models_as_they_were() -> None:
    def interrupted() -> Iterator[Tensor]:
        yield IMAGES
        raise KeyboardInterrupt

    model, other = network().train(), network(1).train()
    with pytest.raises(KeyboardInterrupt):
        pc.compare(model, other, interrupted())
    assert model.training
    assert other[1].training
    assert not any(m._forward_hooks for m in [*model.modules(), *other.modules()])


def test_an_activation_overwritten_in_place_is_compared_as_it_was() -> None:
    model, other = network(), network(1)
    plain, plain_other = copy.deepcopy(model), copy.deepcopy(other)
    plain[2], plain_other[2] = nn.ReLU(), nn.ReLU()
    found = values(pc.compare(model, other, cut(IMAGES, 20), ["1"], "linear_cka").table)
    assert found == values(pc.compare(plain, plain_other, cut(IMAGES, 20), ["1"], "linear_cka").table)
    assert found != values(pc.compare(model, other, cut(IMAGES, 20), ["2"], "linear_cka").table)


def test_an_activation_overwritten_only_in_later_batches_is_an_error() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x.mul_(2) if len(x) == 7 else x

    with pytest.raises(ValueError, match="'conv' of the reference was overwritten in place in batch 1"):
        pc.compare(Moody(), Moody(), [IMAGES[:8], IMAGES[8:15]], "conv")


def test_layers_of_different_names_are_compared_by_a_mapping() -> None:
    model = network()
    renamed = nn.Sequential(nn.Sequential(*copy.deepcopy(model)[:6]), nn.Sequential(*copy.deepcopy(model)[6:]))
    table = pc.compare(model, renamed, cut(IMAGES, 20), {"8": "1.2", "3": "0.3"}).table
    assert table["layer"].tolist() == ["3", "8"]
    assert table["kind"].tolist() == ["pool", "fc"]
    assert table["value"].tolist() == pytest.approx([1, 1], abs=1e-6)


def test_a_dead_layer_is_nan_and_the_others_are_not() -> None:
    model, other = network(), network(1)
    with torch.no_grad():
        other[7].weight.zero_()
        other[7].bias.fill_(-1.0)
    table = pc.compare(model, other, cut(IMAGES, 20), metrics=list(pc.METRICS)).table
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


def test_the_reference_is_decomposed_once_for_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    decomposed = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: decomposed.append(m[..., 0, 0].numel()) or eigh(m))
    pc.compare(network(), [network(seed) for seed in range(5)], IMAGES, "5", ["svcca", "cca", "linear_regression"])
    assert decomposed == [1] * 6


def test_convolutions_run_channels_last_where_the_model_takes_it() -> None:
    class Viewing(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = self[5](self[4](self[3](self[2](self[1](self[0](x))))))
            return self[8](self[7](x.view(len(x), -1)))

    model, other = network(), network(1)
    formats = []
    model[5].register_forward_hook(lambda m, a, out: formats.append(out.stride(1)))
    expected = pc.compare(model, other, IMAGES).table
    assert formats[-1] == 1
    viewing, viewing_other = Viewing(*copy.deepcopy(model)), Viewing(*copy.deepcopy(other))
    found = pc.compare(viewing, viewing_other, IMAGES, ["2", "3", "5", "8"]).table
    assert formats[-1] == 36
    assert found["value"].tolist() == pytest.approx(expected["value"].tolist(), abs=1e-6)


def test_progress_is_told_after_every_batch() -> None:
    told: list[tuple[int, int | None]] = []
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES), batch_size=25)
    pc.compare(network(), network(1), data, progress=lambda *p: told.append(p))
    assert told == [(25, 60), (50, 60), (60, 60)]
    told.clear()
    pc.compare(network(), network(1), data, max_datapoints=30, progress=lambda *p: told.append(p))
    assert told == [(25, 30), (30, 30)]
    pc.compare(network(), network(1), data, progress=True)


def test_table_and_picture_are_saved(tmp_path: Path) -> None:
    result = pc.compare(network(), [network(k) for k in range(3)], IMAGES, metrics=["svcca", "linear_cka"])
    result.save(tmp_path / "t.csv")
    result.save(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), result.table)
    assert pd.read_csv(tmp_path / "t.csv")["value"].tolist() == pytest.approx(result.table["value"].tolist())
    result.plot(tmp_path / "both.png")
    result.plot(tmp_path / "one.pdf", metric="svcca")
    assert (tmp_path / "both.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "one.pdf").read_bytes()[:4] == b"%PDF"
    with pytest.raises(ValueError, match="no metric 'cca'; it has svcca, linear_cka"):
        result.plot(tmp_path / "x.png", metric="cca")
    with pytest.raises(ValueError, match="expected a picture"):
        result.plot(tmp_path / "x.txt")
    with pytest.raises(ValueError, match=r"ending in \.csv or \.parquet"):
        result.save(tmp_path / "x.xlsx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.png", "one.pdf", "t.csv", "t.parquet"]


class _Poisoned(nn.Module):
    """Gives NaN in one layer for batches of five images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.output = nn.Conv2d(3, 4, 3), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.conv(x * (torch.nan if len(x) == 5 else 1)))


def _small_images(model: nn.Module) -> Any:
    return nn.Sequential(*model[:3], nn.MaxPool2d(3), *model[4:6])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"loader": []}, ValueError, "the loader gave no inputs; expected at least one batch"),
        ({"loader": [IMAGES[:0]]}, ValueError, "the loader gave no inputs"),
        ({"loader": [{"image": IMAGES}]}, TypeError, "batch 0 of the loader is a dict; expected a tensor of inputs"),
        ({"loader": [({"image": IMAGES}, 1)]}, TypeError, "batch 0 of the loader is a tuple that starts with a dict"),
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
        ({"candidates": network(1).to("meta")}, ValueError, "different devices .the reference on cpu, candidate"),
    ],
)
def test_errors_say_what_was_wrong(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    model = network().train()
    given = {"candidates": network(1), "loader": cut(IMAGES, 20)} | arguments
    with pytest.raises(error, match=words):
        pc.compare(model, **given)
    assert all(m.training and not m._forward_hooks for m in model.modules())


def test_nan_is_traced_to_layer_model_and_batch() -> None:
    good, bad = nn.Sequential(), _Poisoned()
    good.add_module("conv", nn.Conv2d(3, 4, 3))
    good.add_module("output", nn.Flatten())
    loader = [IMAGES[:8], IMAGES[8:13]]
    with pytest.raises(ValueError, match=r"layer 'conv' of candidate 'bad', batch 1.*NaN"):
        pc.compare(good, {"good": copy.deepcopy(good), "bad": bad}, loader, "conv")
    with pytest.raises(ValueError, match=r"layer 'conv' of the reference, batch 1.*NaN"):
        pc.compare(bad, {"good": good}, loader, "conv")


def test_autocast_is_the_precision_of_the_forward_passes() -> None:
    model, others = network(), [network(1)]
    expected = pc.compare(model, others, IMAGES, metrics="linear_cka").table
    with torch.autocast("cpu", torch.bfloat16):
        found = pc.compare(model, others, IMAGES, metrics="linear_cka").table
    assert 0 < (found["value"] - expected["value"]).abs().max() < 0.02


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
    expected = pc.compare(model, others, IMAGES, metrics=list(pc.METRICS)).table
    for each in (model, *others):
        each.to(memory_format=memory)
    found = pc.compare(model, others, IMAGES, metrics=list(pc.METRICS), device="cuda").table
    assert (found["value"] - expected["value"]).abs().max() < 1e-4
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.cuda
@pytest.mark.parametrize("half", [False, True])
def test_on_the_gpu_nothing_waits_between_batches(half: bool) -> None:
    model, others = network().cuda(), [network(k).cuda() for k in (1, 2)]

    def after_a_batch(done: int, total: int | None) -> None:
        waiting.forbid(0 < done < len(IMAGES))

    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            table = pc.compare(model, others, IMAGES.cuda().split(10), progress=after_a_batch).table
    finally:
        waiting.forbid(False)
    assert table["value"].between(0, 1).all()


@pytest.mark.cuda
def test_on_the_gpu_nan_is_traced_to_layer_model_and_batch() -> None:
    good, bad = nn.Sequential(), _Poisoned()
    good.add_module("conv", nn.Conv2d(3, 4, 3))
    good.add_module("output", nn.Flatten())
    loader = [IMAGES[:8], IMAGES[8:13]]
    with pytest.raises(ValueError, match=r"layer 'conv' of candidate 'bad', batch 1.*NaN"):
        pc.compare(good, {"good": copy.deepcopy(good), "bad": bad}, loader, "conv", device="cuda")


@pytest.mark.cuda
def test_a_comparison_on_the_last_device() -> None:
    last = f"cuda:{torch.cuda.device_count() - 1}"
    table = pc.compare(network(), [network(1)], IMAGES, device=last).table
    assert table["value"].between(0, 1).all()
