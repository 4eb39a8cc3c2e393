"""Models in wrappers, compiled, exported, spread over devices, and of the usual libraries."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks import IMAGES, cut, network, values
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import prunecca as pc
from prunecca.activations.wrappers import named_layers

pytestmark = pytest.mark.usefixtures("one_thread")


class Wrapper(nn.Module):
    """As people write them; its own forward counts."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x * 2)


def test_wrappers_are_taken_off_and_do_not_show_in_names() -> None:
    model, other = network().eval(), network(1).eval()
    expected = values(pc.compare(model, {"other": other}, cut(IMAGES, 20)).table)
    parallel, averaged = nn.DataParallel(copy.deepcopy(other)), AveragedModel(other)
    for wrapped in (parallel, averaged, nn.DataParallel(averaged), torch.compile(other), torch.compile(parallel)):
        assert values(pc.compare(model, {"other": wrapped}, cut(IMAGES, 20)).table) == expected
        assert [layer.name for layer in pc.find_layers(wrapped, IMAGES, ["module.2", "_orig_mod.5", "module.8"])] == [
            "2", "5", "8",
        ]  # fmt: skip
    back = pc.compare(parallel, {"other": model}, cut(IMAGES, 20), ["module.?"]).table
    assert back["layer"].drop_duplicates().tolist() == [str(k) for k in range(10)]
    own = values(pc.compare(model, {"other": Wrapper(other)}, cut(IMAGES, 20)).table)
    doubled = values(
        pc.compare(
            model, {"other": nn.Sequential(*other)}, IMAGES, forward=lambda m, x: m(x * (1 + (m is not model)))
        ).table
    )
    assert own == pytest.approx(doubled, abs=1e-6)
    assert own != expected


def test_a_layer_that_is_called_module_keeps_its_name() -> None:
    model = nn.Sequential()
    model.add_module("module", nn.Conv2d(3, 4, 3))
    assert list(named_layers(model)) == ["", "module"]
    table = pc.compare(model, model, IMAGES, "module").table
    assert table["layer"].tolist() == ["module"]


def test_compiled_models_run_as_they_were_written_and_are_not_compiled_again() -> None:
    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    model, parts, inside = network(), network(1), network(2)
    expected = values(pc.compare(model, {"whole": model, "parts": parts, "inside": inside}, IMAGES).table)
    whole = torch.compile(model, backend=backend)
    parts[4] = torch.compile(parts[4], backend=backend)
    inside.compile(backend=backend)
    for each in (whole, parts, inside):
        with torch.no_grad():
            each.eval()(IMAGES)
    before = len(compiled)
    found = pc.compare(whole, {"whole": whole, "parts": parts, "inside": inside}, IMAGES).table
    assert values(found) == pytest.approx(expected, abs=1e-6)
    assert len(compiled) == before
    for each in (whole, parts, inside):
        with torch.no_grad():
            each(IMAGES)
    assert len(compiled) == before
    assert pc.intrinsic_dimensions(whole, IMAGES, "_orig_mod.8")["layer"].tolist() == ["8"]


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::DeprecationWarning")
def test_models_that_hide_their_layers_are_refused() -> None:
    model = network().eval()
    scripted, traced = torch.jit.script(model), torch.jit.trace(model, IMAGES)
    exported = torch.export.export(model, (IMAGES,))
    for hidden, words in [
        (
            scripted,
            "is a .* of torch.jit, whose layers cannot be watched; expected the torch.nn.Module that it was made",
        ),
        (traced, "is a .* of torch.jit"),
        (exported, "is an exported program, whose layers cannot be watched; expected the torch.nn.Module"),
        (exported.module(), "is an exported program"),
    ]:
        with pytest.raises(TypeError, match=f"candidate 'hidden' {words}"):
            pc.compare(model, {"hidden": hidden}, IMAGES)
        with pytest.raises(TypeError, match=f"the reference {words}"):
            pc.compare(hidden, model, IMAGES)
        with pytest.raises(TypeError, match=f"the model {words}"):
            pc.find_layers(hidden, IMAGES)
        with pytest.raises(TypeError, match=f"the model {words}"):
            pc.intrinsic_dimensions(hidden, IMAGES)
    symbolic = torch.fx.symbolic_trace(model)
    assert values(pc.compare(model, symbolic, IMAGES).table) == values(pc.compare(model, model, IMAGES).table)


def test_a_model_on_several_devices_stays_where_it_is() -> None:
    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.far, self.near = nn.Linear(4, 4, device="meta"), nn.Linear(4, 3)

        def to(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("moved")

        def forward(self, x: Tensor) -> Tensor:
            return self.near(x)

    model, inputs = Spread(), torch.randn(50, 4)
    for device in (None, "cpu"):
        table = pc.compare(model, [model, Spread()], inputs, "near", device=device).table
        assert table["value"][0] == pytest.approx(1, abs=1e-6)
    assert model.training


@pytest.mark.cuda
def test_a_model_on_the_host_and_a_device_is_compared_with_one_on_a_device() -> None:
    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).to(self.second.weight.device))

    model, inputs = Spread(), torch.randn(50, 4)
    spread, whole = copy.deepcopy(model), copy.deepcopy(model).cuda()
    spread.second.cuda()
    for pair in ((spread, whole), (whole, spread), (spread, spread)):
        table = pc.compare(*pair, inputs, ["first", "second"], "linear_cka").table
        assert table["value"].tolist() == pytest.approx([1, 1], abs=1e-4)
    assert spread.first.weight.device.type == "cpu"


@pytest.mark.filterwarnings("ignore::prunecca.errors.UnusedMask")
def test_transformers_take_what_a_tokenizer_gives() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 40,
    }
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(transformers.BertModel(transformers.BertConfig(**sizes)).eval())
    ids = torch.randint(1, 40, (24, 7))
    mask = (torch.arange(7) < torch.randint(2, 8, (24, 1))).long()
    ids = ids * mask
    encoding = transformers.BatchEncoding({"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(24)})
    layers = ["encoder.layer.0.output", "encoder"]
    chosen: dict[str, Any] = {"layers": layers, "metrics": "linear_cka", "layout": "nlc"}
    expected = values(pc.compare(*models, [encoding], **chosen).table)
    with torch.no_grad():
        x, y = (m(input_ids=ids, attention_mask=mask).last_hidden_state.double() for m in models)
    x, y = (z.flatten(0, 1) - z.flatten(0, 1).mean(0) for z in (x, y))
    truth = float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))
    assert expected["candidate", "encoder", "linear_cka"] == pytest.approx(truth, abs=1e-6)
    loaders: list[Any] = [
        encoding,
        dict(encoding),
        torch.utils.data.TensorDataset(ids, mask, torch.zeros(24)),
        [(dict(encoding), torch.zeros(24))],
    ]
    for loader in loaders:
        assert values(pc.compare(*models, loader, **chosen).table) == pytest.approx(expected, abs=1e-6)
    read = pc.compare(*models, [encoding], **chosen, forward=lambda m, b: m(b.input_ids, b["attention_mask"]))
    assert values(read.table) == pytest.approx(expected, abs=1e-6)
    unmasked = values(pc.compare(*models, ids, **chosen).table)
    assert unmasked != pytest.approx(expected, abs=2e-5)


def test_timm_models_are_compared() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet10t", num_classes=3)
    table = pc.compare(model, copy.deepcopy(model), [(IMAGES[:20], torch.zeros(20))], "layer?", "linear_cka").table
    assert table["value"].tolist() == pytest.approx([1] * 4, abs=1e-6)
