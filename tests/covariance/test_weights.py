"""Weights of rows: a weight of two is the row twice, whatever the route; and the files that hold such states."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from streams import FIELDS, differences, streamed

import prunecca as pc

INTEGERS = torch.tensor([0, 1, 2, 3])


def given(rows=90, dtype=torch.float32):
    return torch.randn(rows, 7).to(dtype) + 3, torch.randn(rows, 4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_whole_weights_are_repetitions(dtype):
    x, y = given(dtype=dtype)
    weights = INTEGERS[torch.randint(4, (90,))]
    cov = streamed((x, y, {"weights": weights}))
    again = [t.double().repeat_interleave(weights, 0) for t in (x, y)]
    assert cov.count == int(weights.sum())
    assert isinstance(cov.count, int)
    assert max(differences(cov, streamed((*again, {}))).values()) < 1e-12


def test_against_numpy():
    x, y = given(dtype=torch.float64)
    both = np.concatenate([x.numpy(), y.numpy()], 1)
    whole, fractions = INTEGERS[torch.randint(4, (90,))].numpy(), np.random.default_rng(0).random(90) * 3
    cov = streamed((x, y, {"weights": whole}))
    np.testing.assert_allclose(cov.xy.numpy(), np.cov(both, rowvar=False, fweights=whole)[:7, 7:], rtol=0, atol=1e-13)
    cov = streamed((x, y, {"weights": fractions}))
    assert cov.count == pytest.approx(fractions.sum(), rel=1e-15)
    biased = np.cov(both, rowvar=False, aweights=fractions, ddof=0) * cov.count / (cov.count - 1)
    np.testing.assert_allclose(cov.xx.numpy(), biased[:7, :7], rtol=0, atol=1e-13)
    np.testing.assert_allclose(cov.mean_x.numpy(), np.average(x.numpy(), 0, fractions), rtol=1e-13)


def test_weights_and_rows_together_in_batches_beside_plain_ones():
    x, y = torch.randn(30, 6, 5), torch.randn(30, 6, 3)
    mask, weights = torch.rand(30, 6) < 0.5, torch.randint(3, (30, 6))
    x[~mask] = torch.nan
    y[weights == 0] = torch.inf
    cov = streamed((x, y, {"rows": mask, "weights": weights}), (x, y, {"rows": mask & (weights > 0)}), layout="nlc")
    times = (weights * mask).flatten()
    kept = (times > 0).nonzero().squeeze(1)
    order = torch.cat([torch.arange(180).repeat_interleave(times), kept])
    want = streamed((x.reshape(180, 5)[order].double(), y.reshape(180, 3)[order].double(), {}))
    assert cov.count == want.count
    assert max(differences(cov, want).values()) < 2e-7


def test_weights_of_datapoints_hold_for_their_positions():
    x, weights = torch.randn(20, 5, 4, 3), torch.rand(20)
    cov = streamed((x, x, {"weights": weights}), norms=False)
    each = weights.double()[:, None].expand(20, 12).flatten().numpy()
    want = np.average(x.movedim(1, -1).reshape(-1, 5).double().numpy(), 0, each)
    np.testing.assert_allclose(cov.mean_x.numpy(), want, rtol=1e-12)


def test_merging_and_similarity():
    x, y = given(400)
    weights = torch.rand(400, dtype=torch.float64)
    parts = [pc.StreamingCovariance(norms=True) for _ in range(2)]
    for part, rows in zip(parts, (slice(150), slice(150, 400)), strict=True):
        part.update(x[rows], y[rows], weights=weights[rows])
    parts[0].merge(parts[1])
    whole = streamed((x, y, {"weights": weights}))
    assert parts[0].finalize().count == pytest.approx(whole.count, rel=1e-15)
    assert max(differences(parts[0].finalize(), whole).values()) < 1e-12
    assert 0 < pc.svcca(whole).mean < 1
    assert pc.linear_cka(streamed((x, x, {"weights": weights}))) == pytest.approx(1, abs=1e-12)


def test_refusals_leave_the_state_as_it_was():
    x, y = given()
    acc = pc.StreamingCovariance()
    acc.update(x, y)
    before = acc.finalize()
    bad = y.clone()
    bad[5, 2] = torch.inf
    with pytest.raises(ValueError, match="y holds NaN or infinity, first in channel 2"):
        acc.update(x, bad, weights=torch.ones(90))
    for weights, words in (
        (-torch.ones(90), "weights holds -1.0; expected finite numbers from 0 on, one for each row"),
        (torch.full((90,), torch.nan), "weights holds nan; expected finite numbers from 0 on"),
        (torch.ones(9), r"weights has shape \(9,\) for an activation of shape \(90, 7\); expected \(90,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            acc.update(x, y, weights=weights)
    with pytest.raises(TypeError, match=r"weights has dtype torch\.complex64; expected real numbers"):
        acc.update(x, y, weights=torch.ones(90, dtype=torch.complex64))
    assert all(torch.equal(getattr(before, f), getattr(acc.finalize(), f)) for f in FIELDS if f != "norms")


def test_values_whose_squares_float64_does_not_hold():
    x = torch.randn(80, 3, dtype=torch.float64)
    acc = pc.StreamingCovariance()
    acc.update(x * 1e-180, weights=torch.zeros(80))
    acc.update(x * 1e180, weights=torch.ones(80))
    with pytest.raises(ValueError, match="leaves the range of float64"):
        acc.finalize()
    assert acc.count == 80


def test_files(tmp_path):
    x, y = given()
    acc = pc.StreamingCovariance()
    acc.update(x, y, weights=torch.full((90,), 0.3))
    acc.save(tmp_path / "state.safetensors")
    acc.finalize().save(tmp_path / "cov.safetensors")
    again = pc.StreamingCovariance.load(tmp_path / "state.safetensors")
    assert again.count == acc.count != round(acc.count)
    assert torch.equal(again.finalize().xy, acc.finalize().xy)
    assert pc.Covariance.load(tmp_path / "cov.safetensors").count == acc.count
    for name in ("state", "cov"):  # earlier versions say which metadata they do not know
        assert _metadata(tmp_path / f"{name}.safetensors")["weighted"] is True
    whole = pc.StreamingCovariance()
    whole.update(x, y, weights=torch.full((90,), 2.0))
    whole.save(tmp_path / "whole.safetensors")
    assert "weighted" not in _metadata(tmp_path / "whole.safetensors")


def _metadata(path):
    with safe_open(path, "pt") as file:
        held = file.metadata()
    return {k: v for value in held.values() for k, v in _items(value)} | held


def _items(value):
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        return []
    return list(parsed.items()) if isinstance(parsed, dict) else []
