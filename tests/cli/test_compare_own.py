"""`prunecca compare` on networks and data of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from typer.testing import CliRunner

import prunecca as pc
from prunecca.cli.compare import read_layout
from prunecca.cli.main import app
from prunecca.comparison.result import Comparison
from prunecca.errors import ConfigurationError, CorruptFile

pytestmark = pytest.mark.usefixtures("one_thread")

MODULE = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))

ONE = make()
def same(): return ONE
class Net(nn.Sequential):
    def __init__(self): super().__init__(*make())
def nothing(): return None
def wrong(size): return make()
def broken(): raise RuntimeError("no\\nway")
NUMBER = 3

def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(50, 6, generator=generator) for _ in range(4)]
DATA = batches()
"""


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder as users have them: a module, and weights of two networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine_of_tests").mkdir()
    (tmp_path / "mine_of_tests" / "nets.py").write_text(MODULE)
    (tmp_path / "mine_of_tests" / "stops.py").write_text("raise SystemExit(2)")
    (tmp_path / "mine_of_tests" / "needs.py").write_text("import no_such_library")
    torch.save({"state_dict": network(0).state_dict()}, "a.pt")
    save_file(network(1).state_dict(), "b.safetensors")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine_of_tests"]:
        del sys.modules[name]


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], catch_exceptions=False)


def own(make: str = "make", *more: object) -> Any:
    return run("--model", f"mine_of_tests.nets:{make}", "--loader", "mine_of_tests.nets:batches", *more)


@pytest.mark.parametrize("make", ["make", "same", "Net", "ONE"])
def test_weights_in_networks_of_a_module(work, make):
    result = own(make, "a.pt", "b.safetensors", "--out", "t.csv", "--metrics", "linear_cka,cca")
    assert result.exit_code == 0
    data = [torch.randn(50, 6, generator=(g := torch.Generator().manual_seed(1))) for _ in range(1)]
    data += [torch.randn(50, 6, generator=g) for _ in range(3)]
    expected = pc.compare(network(0), {"b.safetensors": network(1)}, data, metrics=("linear_cka", "cca")).table
    got = pd.read_csv("t.csv", dtype={"layer": str})
    assert got["candidate"].unique().tolist() == ["b.safetensors"]
    assert got["value"].tolist() == pytest.approx(expected["value"].tolist(), abs=1e-12)
    assert "table  t.csv" in result.output


def test_options_reach_the_comparison_only_if_given(work, monkeypatch):
    seen: list[dict[str, Any]] = []

    def compare(reference: Any, candidates: Any, loader: Any, **options: Any) -> Comparison:
        seen.append(options)
        pairs = [(x, y) for x in range(2) for y in range(2)]
        table = pd.DataFrame({"layer": [f"l{x}" for x, _ in pairs], "layer_y": [f"l{y}" for _, y in pairs]})
        table = table.assign(depth=[x for x, _ in pairs], depth_y=[y for _, y in pairs], candidate="b", reliable=True)
        return Comparison(table.assign(metric="nbs", value=[0.9, 0.1234, 0.3, 0.8]), ())

    monkeypatch.setattr("prunecca.comparison.compare.compare", compare)
    own("make", "a.pt", "b.safetensors", "--metrics", "nbs")
    assert sorted(seen[0]) == ["device", "distributed", "layers", "metrics", "progress"]
    options = "--rows attention_mask --points mean --resize pool --max 30 --layers 1,3* --layout 1=nc,3*=nlc --quiet"
    result = own("make", "a.pt", "b.safetensors", "--metrics", "nbs", "--heatmap", "h.png", *options.split())
    assert result.output == ""
    assert Path("h.png").read_bytes()[:4] == b"\x89PNG"
    given = {"rows": "attention_mask", "points": "mean", "resize": "pool", "max_datapoints": 30, "pairs": "all"}
    given |= {"layers": ["1", "3*"], "layout": {"1": "nc", "3*": "nlc"}, "progress": False}
    assert {name: seen[1][name] for name in given} == given
    shown = own("make", "a.pt", "b.safetensors", "--metrics", "nbs", "--pairs", "all")
    assert "0.1234" in shown.output
    with pytest.raises(ConfigurationError, match="--heatmap needs every pair of layers, and --pairs is same"):
        own("make", "a.pt", "b.safetensors", "--heatmap", "h.png", "--pairs", "same")


def test_a_picture_is_drawn_and_quiet_prints_nothing(work):
    result = own("make", "a.pt", "b.safetensors", "--plot", "p.svg", "--quiet", "--max", "60", "--out", "t.csv")
    assert result.output == ""
    assert b"<svg" in Path("p.svg").read_bytes()
    assert set(pd.read_csv("t.csv")["count"]) == {60}


def test_loaders_may_be_data(work):
    assert (
        run("--model", "mine_of_tests.nets:make", "--loader", "mine_of_tests.nets:DATA", "a.pt", "a.pt").exit_code == 0
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet50", "--model is 'resnet50'; expected package.module:make, torchvision:NAME, timm:NAME or hf:FOLDER"),
        ("mine_of_tests/nets.py:make", "--model names a file, mine_of_tests/nets.py; expected a module, as in mine_of_tests.nets:make"),
        ("no_such_module:make", "--model no_such_module:make: there is no module 'no_such_module', neither in {work} nor among the installed packages"),
        ("mine_of_tests.nots:make", "--model mine_of_tests.nots:make: there is no module 'mine_of_tests.nots', neither in {work} nor among the installed packages"),
        ("mine_of_tests.needs:make", "--model mine_of_tests.needs:make: mine_of_tests.needs cannot be imported, for it needs no_such_library"),
        ("mine_of_tests.stops:make", "--model mine_of_tests.stops:make: mine_of_tests.stops cannot be imported (SystemExit: 2)"),
        ("mine_of_tests.nets:mike", "--model mine_of_tests.nets:mike: mine_of_tests.nets has no 'mike'; it has Net, ONE, batches, broken, make, nothing, same, wrong"),
        ("mine_of_tests.nets:nothing", "--model mine_of_tests.nets:nothing gave a NoneType; expected a torch.nn.Module"),
        ("mine_of_tests.nets:NUMBER", "mine_of_tests.nets:NUMBER is of type int; expected a function that gives a module"),
        ("mine_of_tests.nets:broken", "mine_of_tests.nets:broken failed (RuntimeError: no); expected a function without arguments that gives a module"),
        ("torchvision:resnet1", "torchvision has no model 'resnet1'; expected one of torchvision.models.list_models()"),
        ("timm:hf-hub:timm/resnet18", "timm has no model 'hf-hub:timm/resnet18'; expected one of timm.list_models(), without a source"),
        ("hf:bert-base-uncased", "hf:bert-base-uncased has no config.json; expected a folder made by save_pretrained, for nothing is downloaded"),
    ],
)  # fmt: skip
def test_models_that_there_are_not(work, model, message):
    with pytest.raises(ConfigurationError) as caught:
        run("--model", model, "--loader", "mine_of_tests.nets:batches", "a.pt", "b.safetensors")
    assert str(caught.value) == message.format(work=work)


def test_a_function_with_arguments_is_refused(work):
    with pytest.raises(ConfigurationError, match=r"nets:wrong failed \(TypeError: .*; expected a function without arg"):
        own("wrong", "a.pt", "b.safetensors")


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_library_that_is_missing_is_named(work, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    model = {"timm": "timm:resnet18", "transformers": "hf:x"}[library]
    with pytest.raises(ConfigurationError, match=f"^--model {model} needs {library}, which is not installed; pip install {library}$"):  # fmt: skip
        run("--model", model, "--loader", "mine_of_tests.nets:batches", "a.pt", "b.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m:make"], "--model needs data; give --loader package.module:make_loader"),
        (["--loader", "m:make"], "--loader is for networks of your own; give --model package.module:make"),
        (["--model", "m:f", "--loader", "m:g", "--images", "9"], "--images is for networks of a problem; with --model give --loader and --max"),
        (["--model", "m:f", "--loader", "m:g", "--problem", "cifar2"], "--problem is for networks of a problem; with --model give"),
        (["--activations", "--max", "9"], "--max is for networks; leave it out with --activations"),
        (["--activations", "--plot", "x.png"], "--plot is for networks; leave it out with --activations"),
        (["--activations", "--layout", "a=nlc"], "--layout is 'a=nlc'; with --activations expected one word, such as nlc"),
        (["--plot", "x.txt"], "x.txt ends in '.txt'; expected a picture such as .png"),
        (["--plot", "x.png", "--heatmap", "x.png"], "--plot and --heatmap both name x.png; expected two files"),
        (["--layout", "a=nlc,nhwc"], "--layout is 'a=nlc,nhwc'; expected a word such as nlc, or GLOB=WORD,GLOB=WORD"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(work, arguments, message):
    with pytest.raises(ValueError) as caught:
        run(*arguments, "a.pt", "b.safetensors")
    assert str(caught.value).startswith(message)


def test_words_of_layouts():
    assert read_layout(" nlc") == "nlc"
    assert read_layout("blocks.*=nlc, a=b=nhwc") == {"blocks.*": "nlc", "a=b": "nhwc"}


def test_weights_that_do_not_fit_are_named(work):
    torch.save(nn.Sequential(nn.Linear(6, 8)).state_dict(), "c.pt")
    with pytest.raises(ConfigurationError) as caught:
        own("make", "a.pt", "c.pt")
    assert str(caught.value) == (
        "c.pt does not fit the network of --model mine_of_tests.nets:make: it lacks 2.weight, 2.bias, 4.weight and 1 "
        "more; give the --model that these weights were trained in"
    )


def test_a_pickled_module_is_refused_with_what_to_do(work):
    torch.save(network(0), "whole.pt")
    with pytest.raises(CorruptFile) as caught:
        own("make", "whole.pt", "b.safetensors")
    assert str(caught.value) == (
        "whole.pt holds an object of torch.nn.modules.container.Sequential, not weights alone, and loading it can run any "
        "code; where you trust it, load it with torch.load(FILE, weights_only=False), save its weights with "
        "torch.save(model.state_dict(), 'weights.pt'), and give that file with --model package.module:make, which makes "
        "that network"
    )
    with pytest.raises(ConfigurationError, match=r"for a network of your own --model package.module:make and --loader"):
        run("a.pt", "b.safetensors")


def test_a_candidate_given_twice_is_refused(work):
    with pytest.raises(ConfigurationError, match=r"^b.safetensors is given twice as a candidate; expected each once$"):
        own("make", "a.pt", "b.safetensors", "b.safetensors")


def test_weights_that_are_stored_once_are_shared(work):
    (work / "mine_of_tests" / "tied.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))\n"
        "    model[2].weight = model[0].weight\n"
        "    return model\n"
    )
    sys.path.insert(0, str(work))
    from mine_of_tests.tied import make  # type: ignore[import-not-found]

    save_model(make(), "tied.safetensors")
    result = run("--model", "mine_of_tests.tied:make", "--loader", "mine_of_tests.nets:batches", "tied.safetensors", "tied.safetensors", "--out", "t.csv")  # fmt: skip
    assert result.exit_code == 0
    assert pd.read_csv("t.csv")["value"].tolist() == pytest.approx([1.0] * 4)


def test_few_rows_are_said_in_one_sentence(work):
    (work / "mine_of_tests" / "few.py").write_text("import torch\ndef batches(): return [torch.randn(5, 6)]\n")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run(
            "--model", "mine_of_tests.nets:make", "--loader", "mine_of_tests.few:batches", "a.pt", "b.safetensors"
        )
    (line,) = result.stderr.splitlines()
    assert line.startswith("prunecca: svcca of '1', '3': no more rows than directions")
    assert "* no more rows than directions" in result.stdout


def test_torchvision_and_timm_by_name(work):
    import torchvision

    (work / "mine_of_tests" / "images.py").write_text("import torch\ndef batches(): return torch.randn(4, 3, 64, 64)\n")
    torch.save(torchvision.models.get_model("squeezenet1_1").state_dict(), "s.pt")
    more = [
        "--loader",
        "mine_of_tests.images:batches",
        "--metrics",
        "linear_cka",
        "--layers",
        "features.3",
        "--out",
        "t.csv",
    ]
    assert run("--model", "torchvision:squeezenet1_1", "s.pt", "s.pt", *more).exit_code == 0
    assert pd.read_csv("t.csv")["value"].tolist() == pytest.approx([1.0])
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_vit").state_dict(), "v.pt")
    (work / "mine_of_tests" / "more.py").write_text("import torch\ndef batches(): return torch.randn(4, 3, 160, 160)\n")
    more = [
        "--loader",
        "mine_of_tests.more:batches",
        "--metrics",
        "linear_cka",
        "--layers",
        "blocks.0.mlp",
        "--out",
        "v.csv",
    ]
    assert run("--model", "timm:test_vit", "v.pt", "v.pt", *more).exit_code == 0
    assert pd.read_csv("v.csv")["value"].tolist() == pytest.approx([1.0])


def test_folders_of_transformers(work):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=40
    )
    for name in ("one", "two"):
        transformers.BertModel(config).save_pretrained(name)
    transformers.BertForMaskedLM(config).save_pretrained("masked")
    (work / "mine_of_tests" / "texts.py").write_text(
        "import torch\ndef batches(): return [{'input_ids': torch.randint(40, (30, 7))}]\n"
    )
    more = ["--loader", "mine_of_tests.texts:batches", "--metrics", "linear_cka", "--out", "t.csv"]
    result = run("--model", "hf:one", "one", "one/model.safetensors", "two", *more)
    assert (result.exit_code, result.stderr) == (0, "")
    table = pd.read_csv("t.csv")
    assert table.query("candidate == 'one/model.safetensors'")["value"].tolist() == pytest.approx(
        [1.0] * (len(table) // 2)
    )
    assert table.query("candidate == 'two'")["value"].max() < 0.999
    result = run("--model", "hf:one", "one", "masked", *more)
    assert "prunecca: masked lacks pooler.dense.bias and 1 more, which are random now" in result.stderr
