"""Networks of every family: layers with themselves, with a pruned copy's, and all with all, against stored activations."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from families import NETWORKS, linear_cka, pruned
from torch import Tensor, nn

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")

# Whose outputs of more than two dimensions have their channels last, as their authors wrote them; of the others dimension 1.
LAST = ("bert", "gpt2", "llama", "t5", "lstm", "lstm, time first")
CHOSEN = {"lstm": ["lstm", "head"], "lstm, time first": ["lstm", "head"]}  # whose one linear layer is the output


def channel_axis(family: str, layer: str, shape: tuple[int, ...]) -> int:
    inside = family == "convnext" and layer.split(".")[-1] in ("1", "2", "3", "4", "5") and ".block." in layer
    images = family == "swin" and not layer.startswith(("permute", "avgpool"))
    tokens = len(shape) == 3 and family in ("vit", "heads", "levit")
    return len(shape) - 1 if family in LAST or inside or images or tokens else 1


def stored(family: str, model: nn.Module, inputs: Tensor, layers: list[str]) -> dict[str, Any]:
    """(datapoints, positions, channels) in float64 of layers that are modules and run once."""
    found: dict[str, Any] = {}
    modules = dict(model.named_modules())

    def keep(name: str) -> Any:
        def hook(_module: Any, _args: Any, out: Any) -> None:
            out = out if isinstance(out, Tensor) else out[0]
            x = out.double().movedim(channel_axis(family, name, tuple(out.shape)), -1)
            x = x.transpose(0, 1) if (family, name) == ("lstm, time first", "lstm") else x
            x = x.transpose(0, 1) if (family, name) == ("lstm, time first", "head") else x
            found[name] = x.reshape(len(x), -1, x.shape[-1]).numpy().copy()

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in layers if name in modules]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return found


def networks(family: str) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    make, inputs, _ = NETWORKS[family]
    model = make().eval()
    return model, pruned(model), inputs


@pytest.mark.parametrize("family", NETWORKS)
def test_default_layers_agree_with_stored_activations(family: str) -> None:
    model, other, inputs = networks(family)
    loader = inputs.split(4)
    table = pc.compare(model, {"itself": model, "pruned": other}, loader, CHOSEN.get(family), "linear_cka").table
    assert table.query("candidate == 'itself'")["value"].to_numpy() == pytest.approx(1, abs=1e-6)
    values = table.query("candidate == 'pruned'").set_index("layer")
    mine, theirs = (stored(family, each, inputs, list(values.index)) for each in (model, other))
    assert len(mine) >= len(values) / 2 or family == "u-net"  # the others are functions
    for layer, x in mine.items():
        x, y = (np.concatenate(list(each)) for each in (x, theirs[layer]))
        assert values["value"][layer] == pytest.approx(linear_cka(x, y), abs=1e-5), layer
        assert (values["count"][layer], values["channels"][layer]) == x.shape, layer


@pytest.mark.parametrize("family", NETWORKS)
def test_all_layers_with_all_agree_with_stored_activations(family: str) -> None:
    model, other, inputs = networks(family)
    layers = [name for name in NETWORKS[family][2] if name in dict(model.named_modules())]
    table = pc.compare(
        model, other, inputs.split(4), layers, "linear_cka", pairs="all", points="mean", chance="permutation"
    ).table
    mine, theirs = (stored(family, each, inputs, layers) for each in (model, other))
    found = {(row.layer, row.layer_y): row.value for row in table.itertuples()}
    truth = {(a, b): linear_cka(mine[a].mean(1), theirs[b].mean(1)) for a, b in itertools.product(mine, theirs)}
    assert len(truth) == len(layers) ** 2
    assert found == pytest.approx(truth, abs=1e-5)
    assert set(table["count"]) == {len(inputs)}
