"""Rows of the table from covariances."""

from __future__ import annotations

import pytest
import torch
from networks import IMAGES, network

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
    assert widths == [4, 4], "the pair that was stacked is a new tensor; all else is known"


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
