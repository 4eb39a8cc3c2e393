"""Sequences with their steps first: the datapoints of a batch lie in its second dimension."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prunecca as pc
from prunecca.activations.batch_axis import BatchAxis

pytestmark = pytest.mark.usefixtures("one_thread")


class Recurrent(nn.Module):
    """A recurrent network of features or of token ids."""

    def __init__(self, kind=nn.LSTM, batch_first=False, ids=False, turned=False, hidden=9):
        super().__init__()
        self.embedding = nn.Embedding(20, 5) if ids else nn.Identity()
        self.core = kind(5, hidden, batch_first=batch_first)
        self.turned = turned

    def forward(self, x, lengths=None):
        x = self.embedding(x)
        return self.core(x.transpose(0, 1) if self.turned else x)[0]


def attention(batch_first):
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()


FLOATS, IDS, WIDE = torch.randn(7, 9, 5), torch.randint(20, (7, 9)), torch.randn(7, 9, 6)


@pytest.mark.parametrize(
    ("model", "content", "axis"),
    [
        (Recurrent(), FLOATS, 1),
        (Recurrent(nn.GRU), FLOATS, 1),
        (Recurrent(nn.RNN), [FLOATS, torch.zeros(9)], 1),
        (Recurrent(batch_first=True), FLOATS, 0),
        (Recurrent(ids=True), IDS, 1),
        (Recurrent(ids=True), {"x": IDS}, 1),
        (Recurrent(ids=True, turned=True), IDS, 0),
        (Recurrent(turned=True), FLOATS, 0),
        (Recurrent(batch_first=True, turned=True), FLOATS, 1),
        (Recurrent(), torch.randn(8, 8, 5), 1),
        (Recurrent(), torch.randn(1, 8, 5), 1),
        (Recurrent(), torch.randn(8, 5), 0),  # one sequence without datapoints
        (attention(False), WIDE, 1),
        (attention(True), WIDE, 0),
        (nn.Linear(5, 3), FLOATS, 0),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5)), torch.randn(4, 3, 6, 6), 0),
    ],
)
def test_where_the_datapoints_lie(model, content, axis):
    assert BatchAxis(model.eval())(content) == axis


def test_where_a_function_calls_the_model():
    assert BatchAxis(Recurrent(), lambda model, batch: model(batch["a"] + 0))({"a": FLOATS, "b": "text"}) == 1


def cka(x, y):
    a, b = (reference.centred(t.reshape(-1, t.shape[-1])) for t in (x, y))
    return np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)


def of_batches(x):
    return DataLoader(
        TensorDataset(x.transpose(0, 1)), 40, collate_fn=lambda items: torch.stack([i for (i,) in items], 1)
    )


@pytest.mark.parametrize("form", ["tensor", "inputs and labels", "mapping", "batches"])
@pytest.mark.parametrize("most", [None, 100])
def test_a_comparison_is_that_of_all_at_once(form, most):
    torch.manual_seed(5)
    models, x = [Recurrent().eval(), Recurrent(hidden=4).eval()], torch.randn(40, 150, 5)
    loader = {
        "tensor": x,
        "inputs and labels": (x, torch.zeros(150, dtype=torch.int64)),
        "mapping": {"x": x, "lengths": torch.full((150,), 40)},
        "batches": of_batches(x),
    }[form]
    seen = []
    result = pc.compare(
        *models,
        loader,
        ["core"],
        ["linear_cka"],
        max_datapoints=most,
        progress=lambda done, total: seen.append((done, total)),
    )
    with torch.no_grad():
        a, b = (model(x[:, :most]).double().numpy() for model in models)
    assert result.table["count"][0] == a.shape[0] * a.shape[1]
    assert result.table["value"][0] == pytest.approx(cka(a, b), abs=1e-7)
    assert seen[-1] == (most or 150, most or 150)
