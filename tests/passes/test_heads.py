"""Heads of an attention as representations of their own, beside a float64 reference from stored activations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from prunecca import compare


class Attention(nn.Module):
    """Self-attention that projects what its heads give one after another."""

    def __init__(self, heads, width=12, out=10):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(12, 3 * width), nn.Linear(width, out)
        self.inner = nn.Identity()

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, -1)
        return self.proj(self.inner(mixed))


def networks(*heads):
    torch.manual_seed(0)
    return [nn.Sequential(Attention(count)).eval() for count in heads]


def stored(model, x):
    """What the output projection is given, in float64."""
    held = []
    handle = model[0].proj.register_forward_pre_hook(
        lambda module, args: held.append(args[0].detach().double().numpy())
    )
    with torch.no_grad():
        model(x)
    handle.remove()
    return held[0].reshape(-1, 12)


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def heads_of(x, count):
    return np.split(x, count, axis=1)


X = torch.randn(40, 5, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layer", ["0.proj", "0.inner"])
def test_each_head_beside_its_namesake(layer):
    a, b = networks(3, 3)
    table = compare(a, b, X, [layer], ["linear_cka"], heads={layer: 3}, layout="nlc").table
    truth = [cka(x, y) for x, y in zip(heads_of(stored(a, X), 3), heads_of(stored(b, X), 3), strict=True)]
    assert table["layer"].tolist() == [f"{layer}.head{n}" for n in range(3)]
    assert table["channels_x"].tolist() == [4, 4, 4]
    np.testing.assert_allclose(table["value"], truth, atol=1e-6)


@pytest.mark.parametrize("resize", [None, "pool"])
def test_all_heads_beside_all_heads(resize):
    a, b = networks(3, 2)
    table = compare(
        a, b, X, ["0.proj"], ["linear_cka"], heads={"0.pro*": 3}, pairs="all", layout="nlc", resize=resize
    ).pivot()
    truth = [[cka(x, y) for y in heads_of(stored(b, X), 3)] for x in heads_of(stored(a, X), 3)]
    np.testing.assert_allclose(table, truth, atol=1e-6)


def test_other_layers_stay_whole_and_a_projection_may_be_both():
    a, b = networks(3, 3)
    table = compare(a, b, X, ["0.qkv", "0.proj"], ["linear_cka"], heads={"0.proj": 2}, layout="nlc").table
    assert table["layer"].tolist() == ["0.qkv", "0.proj.head0", "0.proj.head1"]
    assert table["depth"].tolist() == [0, 1, 2]
    assert table["channels_x"].tolist() == [36, 6, 6]


def test_flattened_heads_and_points():
    a, b = networks(3, 3)
    how = {"layers": ["0.proj"], "metrics": ["linear_cka"], "heads": {"*": 3}, "layout": "nlc"}
    flat = compare(a, b, X, points="flatten", **how).table["value"]
    mean = compare(a, b, X, points="mean", **how).table["value"]
    one, two = (stored(model, X).reshape(40, 5, 3, 4) for model in (a, b))
    flattened = [cka(one[:, :, n].reshape(40, -1), two[:, :, n].reshape(40, -1)) for n in range(3)]
    np.testing.assert_allclose(flat, flattened, atol=1e-6)
    np.testing.assert_allclose(mean, [cka(one[:, :, n].mean(1), two[:, :, n].mean(1)) for n in range(3)], atol=1e-6)


@pytest.mark.parametrize(
    ("heads", "error", "sentence"),
    [
        ({"0.proj": 5}, ValueError, "layer '0.proj' has 12 channels, which are not 5 heads of as many channels each"),
        ({"proj": 3}, ValueError, "heads are given for 'proj', which no compared layer matches"),
        (0, ValueError, r"heads is 0 for '\*'; expected a number of heads"),
        ({"0.proj": 2.0}, TypeError, "heads is 2.0 for '0.proj'; expected a number of heads"),
        (True, TypeError, r"heads is True for '\*'; expected a number of heads"),
    ],
)
def test_what_is_no_number_of_heads(heads, error, sentence):
    with pytest.raises(error, match=sentence):
        compare(*networks(3, 3), X, ["0.proj"], heads=heads, layout="nlc")


def test_bert_gives_its_heads_before_they_are_mixed():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=8
    )
    torch.manual_seed(2)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    ids = torch.randint(0, 30, (50, 4))
    name = "encoder.layer.0.attention"
    table = compare(model, model, {"input_ids": ids}, [f"{name}.self", f"{name}.output.dense"], ["linear_cka"], heads=3)
    held = []
    model.get_submodule(f"{name}.output.dense").register_forward_pre_hook(lambda module, args: held.append(args[0]))
    with torch.no_grad():
        model(ids)
    parts = heads_of(held[0].double().numpy().reshape(-1, 12), 3)
    assert table.table["layer"].tolist() == [
        f"{name}.{part}.head{n}" for part in ("self", "output.dense") for n in range(3)
    ]
    crossed = compare(model, model, {"input_ids": ids}, [f"{name}.self"], ["linear_cka"], heads=3, pairs="all").pivot()
    np.testing.assert_allclose(crossed, [[cka(x, y) for y in parts] for x in parts], atol=1e-6)
