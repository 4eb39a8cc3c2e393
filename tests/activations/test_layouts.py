"""The axis of the channels: found in networks that nobody here wrote, and right by an independent float64 CKA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from families import IMAGES, NETWORKS, linear_cka, noisy
from torch import Tensor, nn
from torch.nn import functional as F

import prunecca as pc
from prunecca.activations.layouts import chosen_layout, layout_word

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)


def stored(model: nn.Module, inputs: Tensor, layers: dict[str, str]) -> dict[str, Any]:
    """Outputs of modules as (rows, channels) matrices, by hooks of their own; functions are left to the names of modules."""
    found: dict[str, Any] = {}

    def keep(name: str, word: str) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            tensor = output if isinstance(output, Tensor) else output[0]
            found[name] = tensor.double().movedim(word.index("c"), -1).flatten(0, -2).numpy().copy()

        return hook

    modules = dict(model.named_modules())
    handles = [modules[n].register_forward_hook(keep(n, w)) for n, w in layers.items() if n in modules]
    with torch.no_grad():
        model.eval()(inputs)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_the_axis_is_found_in_networks_of_others(name: str) -> None:
    make, inputs, expected = NETWORKS[name]
    model = make().eval()
    other = noisy(model)
    table = pc.compare(model, other, inputs, list(expected), "linear_cka").table.set_index("layer")
    assert table["layout"].to_dict() == expected
    truth = {layer: (x, stored(other, inputs, expected)[layer]) for layer, x in stored(model, inputs, expected).items()}
    assert len(truth) >= len(expected) - 3
    for layer, (x, y) in truth.items():
        assert table["value"][layer] == pytest.approx(linear_cka(x, y), abs=1e-6), layer
        assert table["channels"][layer] == x.shape[1]
        assert table["count"][layer] == len(x)


@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "bert", "gpt2", "densenet"])
def test_every_default_layer_has_an_axis(name: str) -> None:
    make, inputs, _ = NETWORKS[name]
    model = make().eval()
    assert all(layer.layout is not None for layer in pc.find_layers(model, inputs))


class Hidden(nn.Module):
    """What the trace cannot follow: the output is made of values, not of tensors it has seen."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x.numpy()[:, :2, :5, 0]))


def test_an_axis_that_is_not_known_is_asked_for() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Hidden())
    with pytest.raises(
        ValueError, match=r"layer '2' gives 3 dimensions.*\('ncl'\) or the last \('nlc'\); say which, such as layout="
    ):
        pc.compare(model, model, IMAGES, ["2"], "linear_cka")
    for layout, channels in (("nlc", 5), ({"2": "ncl"}, 2), ({"*": "nlc", "1": "nchw"}, 5)):
        table = pc.compare(model, model, IMAGES, ["2"], "linear_cka", layout=layout).table
        assert (table["channels"].tolist(), table["value"].tolist()) == ([channels], [pytest.approx(1.0)])


def test_a_word_holds_for_outputs_of_as_many_dimensions() -> None:
    make, inputs, expected = NETWORKS["vit"]
    model = make().eval()
    table = pc.compare(model, model, inputs, list(expected), "linear_cka", layout="nlc").table
    assert table["layout"].tolist() == list(expected.values())
    assert chosen_layout("nhwc", "x", 4, "nchw") == "nhwc"
    assert chosen_layout("nhwc", "x", 3, "nlc") == "nlc"
    assert chosen_layout("auto", "x", 3, None) == "ncl"
    with pytest.raises(ValueError, match="layer 'x' gives 3 dimensions, but layout 'nhwc' was given for 'x'"):
        chosen_layout({"x": "nhwc"}, "x", 3, None)


def test_words_for_any_number_of_dimensions() -> None:
    assert [layout_word(n, n - 1) for n in range(2, 7)] == ["nc", "nlc", "nhwc", "ndhwc", "nhwuvc"]


def test_functions_are_captured_in_each_model_by_itself() -> None:
    """A candidate may call the same function at another place."""

    class Net(nn.Module):
        def __init__(self, extra: bool) -> None:
            super().__init__()
            self.one, self.two, self.extra = nn.Linear(5, 8), nn.Linear(8, 6), extra

        def forward(self, x: Tensor) -> Tensor:
            if self.extra:
                x = x + 0 * F.relu(x)
            return self.two(F.relu(self.one(x)))

    torch.manual_seed(0)
    plain, other = Net(False), Net(True)
    other.load_state_dict(plain.state_dict())
    table = pc.compare(plain, other, torch.randn(300, 5), metrics="linear_cka").table
    assert table["layer"].tolist() == ["one.relu"]
    assert table["value"][0] == pytest.approx(1.0)
