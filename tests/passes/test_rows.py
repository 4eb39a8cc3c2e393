"""Which rows count in a comparison, and what a row is: against float64 NumPy on stored activations."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import reference
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prunecca as pc
from prunecca.errors import UnusedMask

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ["encoder.layer.0.output", "encoder.layer.1.attention.self", "pooler"]


def cka(x, y):
    a, b = reference.centred(x), reference.centred(y)
    cross, own = np.linalg.norm(a.T @ b) ** 2, np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
    return cross / own


@pytest.fixture(scope="module")
def berts():
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    return [transformers.BertModel(config).eval() for _ in range(2)]


@pytest.fixture(scope="module")
def padded():
    """Token ids and their mask: 150 sentences of 3 to 20 tokens, 46 % of what is padded to 20."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 20, (150,), generator=generator)
    mask = (torch.arange(20) < lengths[:, None]).long()
    return torch.randint(1, 50, (150, 20), generator=generator) * mask, mask


def stored(model, layer, **inputs):
    """The activations of a layer, in float64, of a pass over all inputs at once."""
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, result: seen.append(result))
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return (seen[0][0] if isinstance(seen[0], tuple) else seen[0]).double().numpy()


def values(result, points="position"):
    assert set(result.table["points"]) == {points}
    return dict(zip(result.table["layer"], result.table["value"], strict=True))


FORMS = {
    "tuples": lambda ids, mask: (DataLoader(TensorDataset(ids, mask), 32), "attention_mask"),
    "a data set": lambda ids, mask: (TensorDataset(ids, mask), "attention_mask"),
    "mappings": lambda ids, mask: (
        [{"input_ids": i, "attention_mask": m} for i, m in zip(ids.split(40), mask.split(40), strict=True)],
        "attention_mask",
    ),
    "a whole mapping": lambda ids, mask: ({"input_ids": ids, "attention_mask": mask}, "attention_mask"),
    "a tensor": lambda ids, mask: ({"input_ids": ids, "attention_mask": mask}, mask.bool()),
    "a function": lambda ids, mask: (
        DataLoader(TensorDataset(ids, mask), 32, shuffle=True),
        lambda batch: batch[1].bool(),
    ),
    "an inverted key": lambda ids, mask: (
        {"input_ids": ids, "attention_mask": mask, "src_key_padding_mask": mask == 0},
        "src_key_padding_mask",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_padding_takes_no_part(berts, padded, form):
    ids, mask = padded
    loader, rows = FORMS[form](ids, mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnusedMask)
        result = pc.compare(berts[0], berts[1], loader, LAYERS, ["linear_cka"], rows=rows)
    counts = dict(zip(result.table["layer"], result.table["count"], strict=True))
    assert counts == {LAYERS[0]: int(mask.sum()), LAYERS[1]: int(mask.sum()), LAYERS[2]: 150}
    for layer, value in values(result).items():
        x, y = (stored(model, layer, input_ids=ids, attention_mask=mask) for model in berts)
        kept = mask.bool().numpy() if x.ndim == 3 else slice(None)
        assert value == pytest.approx(cka(x[kept], y[kept]), abs=1e-6)


@pytest.mark.parametrize("points", ["mean", "cls", "last"])
def test_one_row_for_each_datapoint(berts, padded, points):
    ids, mask = padded
    inputs = {"input_ids": ids, "attention_mask": mask}
    result = pc.compare(berts[0], berts[1], inputs, LAYERS, ["linear_cka"], rows="attention_mask", points=points)
    assert set(result.table["count"]) == {150}
    weights = mask.double().numpy()[..., None]
    for layer, value in values(result, points).items():
        x, y = (stored(model, layer, **inputs) for model in berts)
        if x.ndim == 3 and points == "mean":
            x, y = ((t * weights).sum(1) / weights.sum(1) for t in (x, y))
        elif x.ndim == 3:
            at = np.zeros(150, int) if points == "cls" else mask.sum(1).numpy() - 1
            x, y = x[np.arange(150), at], y[np.arange(150), at]
        assert value == pytest.approx(cka(x, y), abs=1e-6)


def test_a_mask_that_is_not_used_is_a_warning(berts, padded):
    ids, mask = padded
    words = r"the batches have 'attention_mask', which marks \d+% .* leave the padding out with rows='attention_mask'"
    for loader in (
        TensorDataset(ids, mask),
        {"input_ids": ids, "attention_mask": mask},
        [{"input_ids": ids[:50], "attention_mask": mask[:50] * 0 + 1}, {"input_ids": ids, "attention_mask": mask}],
    ):
        with pytest.warns(UnusedMask, match=words) as seen:
            pc.compare(berts[0], berts, loader, LAYERS, ["linear_cka"])
        assert len([w for w in seen if w.category is UnusedMask]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnusedMask)
        pc.compare(berts[0], berts[1], {"input_ids": ids, "attention_mask": mask * 0 + 1}, LAYERS, ["linear_cka"])
        pc.compare(berts[0], berts[1], TensorDataset(ids, mask), ["pooler"], ["linear_cka"])


def encoder(batch_first):
    torch.manual_seed(3)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()


def test_steps_first(padded):
    _, mask = padded
    x = torch.randn(20, 150, 8)
    kept = mask.bool().T.numpy()
    models = [encoder(False), encoder(False)]
    models[1].layers[0].linear1.weight.data *= -2
    last = mask.sum(1).numpy() - 1
    for rows, points, pick in (
        (mask.bool(), "position", lambda t: t[kept]),
        (mask.bool(), "last", lambda t: t[last, np.arange(150)]),
        (mask[:, 9].bool(), "mean", lambda t: t.mean(0)[kept[9]]),
    ):
        result = pc.compare(*models, x, ["layers.0.norm2"], ["linear_cka"], rows=rows, points=points)
        with torch.no_grad():
            a, b = (pick(model(x).double().numpy()) for model in models)
        assert result.table["count"][0] == len(a)
        assert result.table["value"][0] == pytest.approx(cka(a, b), abs=1e-6)


class Turned(nn.Module):
    """Takes (N, L) ids, and turns them for a recurrent network that has its steps first."""

    def __init__(self):
        super().__init__()
        self.embedding, self.core = nn.Embedding(20, 8), nn.LSTM(8, 6)

    def forward(self, ids):
        return self.core(self.embedding(ids).transpose(0, 1))[0]


@pytest.mark.parametrize("count", [12, 100])  # 12: as many datapoints as steps
@pytest.mark.parametrize("points", ["position", "mean"])
def test_steps_first_within_a_network(count, points):
    models, ids = [Turned().eval(), Turned().eval()], torch.randint(20, (count, 12))
    mask = torch.arange(12) < torch.randint(2, 12, (count, 1))
    with torch.no_grad():
        a, b = (model(ids).transpose(0, 1).double() for model in models)
    if points == "position":
        a, b = a[mask], b[mask]
    else:
        a, b = ((t * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) for t in (a, b))
    result = pc.compare(*models, ids, ["core"], ["linear_cka"], rows=mask, points=points)
    assert result.table["value"][0] == pytest.approx(cka(a, b), abs=1e-6)


def convolutions():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 25, 4)).eval()


def test_images_and_their_datapoints():
    models, x = [convolutions(), convolutions()], torch.randn(130, 3, 5, 5)
    good, area = torch.rand(130) < 0.7, torch.rand(130, 5, 5) < 0.5
    with torch.no_grad():
        a, b = (model[:2](x).double() for model in models)
        heads = [model(x).double() for model in models]
    for rows, points, pick in (
        (good, "position", lambda t: t[good].movedim(1, -1).reshape(-1, 6)),
        (area, "position", lambda t: t.movedim(1, -1)[area]),
        (None, "mean", lambda t: t.mean((2, 3))),
        (good, "mean", lambda t: t[good].mean((2, 3))),
        (area, "mean", lambda t: (t * area[:, None]).sum((2, 3)) / area.sum((1, 2))[:, None]),
        (None, lambda t, name: t.flatten(1)[:, :7], lambda t: t.flatten(1)[:, :7]),
        (good, lambda t, name: t.flatten(1)[:, :7], lambda t: t.flatten(1)[good, :7]),
    ):
        result = pc.compare(*models, x, ["1"], ["linear_cka"], rows=rows, points=points)
        assert result.table["value"][0] == pytest.approx(cka(pick(a), pick(b)), abs=1e-6)
    result = pc.compare(*models, x, ["3"], ["linear_cka"], rows=good)
    assert result.table["value"][0] == pytest.approx(cka(heads[0][good], heads[1][good]), abs=1e-6)
    for points in ("cls", "last"):
        with pytest.raises(
            ValueError, match=rf"points='{points}' takes one of a row of positions, but this output has"
        ):
            pc.compare(*models, x, ["1"], points=points)


def test_padding_may_hold_nan():
    model = nn.Sequential(nn.Linear(4, 3))
    x, mask = torch.randn(90, 6, 4), torch.rand(90, 6) < 0.6
    bad = torch.where(mask[..., None], x, torch.nan)
    for points in ("token", "mean", "last"):
        result = pc.compare(model, model, bad, ["0"], ["linear_cka"], rows=mask, points=points)
        assert result.table["value"][0] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": "mask"}, r"rows='mask' is not in a batch, which has no names: it is a Tensor; expected a key of the batch"),
        ({"rows": torch.ones(7, dtype=torch.bool)}, r"rows has shape \(7,\), but the loader has 90 datapoints"),
        ({"rows": torch.ones(90, 5, dtype=torch.bool)}, r"layer '0' of the reference, batch 0: rows has shape \(64, 5\), but this output has datapoints and positions \(64, 6\)"),
        ({"rows": lambda batch: batch[:3, :, 0] > 0}, r"rows has shape \(3, 6\) for a batch of 64 datapoints"),
        ({"points": "first"}, "points is 'first'; expected 'position'"),
        ({"points": lambda x, name: x}, r"batch 0: points gives shape \(64, 6, 3\); expected rows by channels"),
    ],
)  # fmt: skip
def test_what_does_not_fit(options, words):
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ValueError, match=words):
        pc.compare(model, model, torch.randn(90, 6, 4), ["0"], **options)


def test_a_mask_in_order_and_a_loader_that_shuffles():
    model, x = nn.Linear(4, 3), torch.randn(90, 4)
    loader = DataLoader(TensorDataset(x), 30, shuffle=True)
    with pytest.raises(ValueError, match="the loader shuffles, so that rows, a mask in the order of the data set"):
        pc.compare(model, model, loader, rows=torch.ones(90, dtype=torch.bool))


@pytest.mark.parametrize("count", [12, 100])  # 12: as many datapoints as steps
@pytest.mark.parametrize("rows", [None, "attention_mask"])
def test_all_pairs_of_layers_with_steps_first_and_others(count, rows):
    class Masked(Turned):
        def forward(self, input_ids, attention_mask):
            return super().forward(input_ids)

    models, ids = [Masked().eval(), Masked().eval()], torch.randint(20, (count, 12))
    mask = torch.arange(12) < torch.randint(2, 12, (count, 1))
    loader = {"input_ids": ids, "attention_mask": mask.long()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedMask)
        table = pc.compare(*models, loader, ["embedding", "core"], "linear_cka", pairs="all", rows=rows).table
    with torch.no_grad():
        outputs = [
            {"embedding": m.embedding(ids).double(), "core": m(ids, mask).transpose(0, 1).double()} for m in models
        ]
    for row in table.itertuples():
        x, y = outputs[0][row.layer], outputs[1][row.layer_y]
        x, y = (x[mask], y[mask]) if rows else (x.flatten(0, 1), y.flatten(0, 1))
        assert row.value == pytest.approx(cka(x, y), abs=1e-6), (row.layer, row.layer_y)
    if rows is None:
        flat = pc.compare(*models, loader, ["embedding", "core"], "linear_cka", pairs="all", points="flatten").table
        for row in flat.itertuples():
            x, y = outputs[0][row.layer].flatten(1), outputs[1][row.layer_y].flatten(1)
            assert row.value == pytest.approx(cka(x, y), abs=1e-6), (row.layer, row.layer_y)
