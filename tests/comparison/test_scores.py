"""Rows of the table from covariances."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import IMAGES, network
from torch import nn

import prunecca as pc
from prunecca.comparison.scores import score
from prunecca.similarity import spectrum
from prunecca.similarity.registry import find_metrics

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_reference_is_decomposed_once_for_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    decomposed = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: decomposed.append(m[..., 0, 0].numel()) or eigh(m))
    pc.compare(network(), [network(seed) for seed in range(5)], IMAGES, "5", ["svcca", "cca", "linear_regression"])
    assert decomposed == [1] * 12, "six covariances, and six matrices of correlations"


def test_candidates_of_several_widths_share_one_decomposition_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each width is a group of its own, and each metric asks again."""
    acc = pc.StreamingCovariance()
    acc.update(torch.randn(200, 6), [torch.randn(200, width) for width in (3, 4, 5, 4)])
    covariances = acc.finalize()
    metrics = find_metrics(["svcca", "cca", "pwcca", "nbs", "linear_regression"])
    widths = []
    eigh = spectrum.eigh
    monkeypatch.setattr(spectrum, "eigh", lambda m: widths.append(m.shape[-1]) or eigh(m))
    rows = score(covariances, metrics)
    assert sorted(widths) == [3, 3, 4, 4, 5, 5, 6, 6], "as they are, and as correlations"
    for cov, found in zip(covariances, rows, strict=True):
        assert [row["metric"] for row in found] == list(metrics)
        assert found[0]["value"] == pytest.approx(pc.svcca(cov).mean, abs=1e-12)
        assert found[3]["value"] == pytest.approx(pc.nbs(cov), abs=1e-12)
        assert (found[1]["kept_x"], found[3]["kept_x"]) == (6, None)
        assert (found[4]["kept_x"], found[4]["kept_y"]) == (pc.linear_regression(cov).kept, None)
    widths.clear()
    score(covariances, metrics)
    assert widths == [], "all is known, of those that were stacked too"


def test_layers_of_one_width_are_decomposed_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever pairs they are in, and however many rows they have."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 8), nn.Linear(8, 8)]
    models = [nn.Sequential(*layers), nn.Sequential(*(copy.deepcopy(layer) for layer in layers))]
    for parameter in models[1].parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    calls = []
    eigh = spectrum.eigh
    monkeypatch.setattr(spectrum, "eigh", lambda m: calls.append(tuple(m.shape)) or eigh(m))
    metrics = {"svcca": {"variance": 0.5}, "debiased_cka": {}, "rows": lambda cov: cov.count}
    images, chosen = torch.randn(4096, 3, 8, 8), ["0", "2", "4", "5"]
    table = pc.compare(models[0], [models[1]] * 2, images, chosen, metrics, keep_covariances=True)
    assert calls == [(4 * 3, 8, 8)], "layers times networks"
    found = table.table.set_index(["candidate", "layer", "metric"])["value"]
    assert len(found) == 2 * 4 * 3
    for (candidate, layer), cov in table.covariances.items():
        own = found[candidate, layer]
        assert own["svcca"] == pytest.approx(pc.svcca(cov, variance=0.5).mean, abs=1e-12)
        assert own["debiased_cka"] == pytest.approx(pc.linear_cka(cov, debiased=True), abs=1e-12)
        assert own["rows"] == cov.count, "its own, although layers of other sizes were taken with it"
    assert len(set(found.xs("rows", level="metric"))) == 3


def test_candidates_far_from_the_range_of_float32_are_compared_together() -> None:
    """Their fourth powers leave float64, so that covariances are of powers of two times the activations."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)) for _ in range(3)]
    inputs = torch.randn(200, 6)
    metrics = ["debiased_cka", "svcca", "rsa"]
    expected = pc.compare(models[0], models[1:], inputs, "*", metrics).table["value"]
    for model in models:
        model[0].weight.data *= 2.0**73
        model[0].bias.data *= 2.0**73
        model[1].bias.data *= 2.0**73
    found = pc.compare(models[0], models[1:], inputs, "*", metrics).table["value"]
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-9)


def test_metrics_of_rows_stand_in_their_order_and_are_not_dropped() -> None:
    x, ys = torch.randn(50, 4), [torch.randn(50, 3), torch.randn(50, 5)]
    acc = pc.StreamingCovariance()
    acc.update(x, ys)
    covariances, metrics = acc.finalize(), find_metrics(["mutual_knn", "nbs", "rbf_cka"])
    rows = score(covariances, metrics, [(x, y) for y in ys])
    for y, found in zip(ys, rows, strict=True):
        assert [row["metric"] for row in found] == list(metrics)
        assert [row["sampled"] for row in found] == [50, None, 50]
        assert [row["value"] for row in found] == [pc.mutual_knn(x, y), pytest.approx(pc.nbs(x, y)), pc.rbf_cka(x, y)]
    with pytest.raises(TypeError, match="metric 'mutual_knn' needs the rows"):
        score(covariances, metrics)
