"""Metrics by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from representations import covariance, related

import prunecca as pc
from prunecca.similarity.registry import METRIC_NAMES, METRICS, find_metrics, needs_norms, needs_rows

pytestmark = pytest.mark.usefixtures("one_thread")


def trace_ratio(cov: pc.Covariance, power: float = 1.0) -> float:
    """Of the variances of both sides."""
    assert cov.yy.ndim == 2
    return float(cov.yy.trace() / cov.xx.trace()) ** power


def test_every_metric_has_a_function_and_words() -> None:
    assert METRICS is pc.METRICS
    assert list(METRICS) == list(METRIC_NAMES)
    assert len(set(METRIC_NAMES.values())) == len(METRICS)


def test_metrics_are_found_by_name_with_their_options() -> None:
    cov = covariance(*related(200, 10, 7))
    assert list(find_metrics("nbs")) == ["nbs"]
    assert list(find_metrics(("svcca", "debiased_cka"))) == ["svcca", "debiased_cka"]
    chosen = find_metrics({"svcca": {"variance": 0.9, "trim": 0.98}, "pwcca": {"side": "y"}})
    assert chosen["svcca"](cov).value == pc.svcca(cov, variance=0.9, trim=0.98).mean
    assert chosen["pwcca"](cov).value == pc.pwcca(cov, side="y").mean


@pytest.mark.parametrize(
    ("metrics", "error", "words"),
    [
        ([], ValueError, "no metric was given"),
        ("ccca", ValueError, "there is no metric 'ccca'; expected some of svcca, cca"),
        ({"cca": 0.98}, TypeError, "metric 'cca' is given 0.98; expected a mapping"),
        ({"debiased_cka": {"debiased": False}}, ValueError, "no option 'debiased'; expected none"),
        ({"linear_regression": {"trim": 1}}, ValueError, "no option 'trim'; expected target or tol"),
        (
            [("svcca", {"k": 3}), ("svcca", {"k": 5})],
            ValueError,
            "metric 'svcca' is given twice; expected a name of its",
        ),
        ({"svcca": ("nbs", {})}, ValueError, "the name 'svcca' is that of another metric"),
        ({"svcca": trace_ratio}, ValueError, "the name 'svcca' is that of another metric"),
        ({"mine": {"k": 3}}, ValueError, "there is no metric 'mine'"),
        ({"mine": ("ccca", {})}, ValueError, "there is no metric 'ccca'"),
        ({"svcca 9": ("svcca", {"kk": 9})}, ValueError, "metric 'svcca 9' has no option 'kk'; expected variance or k"),
        ([("svcca", 0.9)], TypeError, "metric 'svcca' is given 0.9; expected a mapping of its options"),
        (
            [("svcca", {}, 3)],
            TypeError,
            "a metric is given as .*; expected a name, a function of a Covariance, or a pair",
        ),
        (7, TypeError, "a metric is given as 7; expected a name"),
        ([lambda cov: 1.0], ValueError, "a function without a name is given as a metric"),
        ({"mine": (trace_ratio, {"power": 2, "root": 1})}, TypeError, "'mine' cannot be called with a Covariance and"),
        ({"mine": lambda: 1.0}, TypeError, "'mine' cannot be called with a Covariance and the options"),
    ],
)
def test_what_does_not_exist_is_named(metrics: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        find_metrics(metrics)


@pytest.mark.parametrize(
    "metrics",
    [
        {"svcca 90": ("svcca", {"variance": 0.9}), "svcca": {}, "trace_ratio": trace_ratio},
        [("svcca 90", ("svcca", {"variance": 0.9})), "svcca", trace_ratio],
        [("svcca 90", (pc.svcca, {"variance": 0.9})), pc.svcca, (trace_ratio, {})],
        (("svcca 90", ("svcca", {"variance": 0.9})), ("svcca", {}), ("trace_ratio", trace_ratio)),
    ],
)
def test_variants_and_own_functions_are_columns(metrics: Any) -> None:
    cov = covariance(*related(200, 10, 7))
    chosen = find_metrics(metrics)
    assert {name: score(cov).value for name, score in chosen.items()} == {
        "svcca 90": pc.svcca(cov, variance=0.9).mean,
        "svcca": pc.svcca(cov).mean,
        "trace_ratio": trace_ratio(cov),
    }
    assert chosen["svcca 90"](cov).kept_x == pc.svcca(cov, variance=0.9).kept_x


def test_one_function_and_one_pair_are_taken_alone() -> None:
    cov = covariance(*related(200, 10, 7))
    assert find_metrics(trace_ratio)["trace_ratio"](cov).value == trace_ratio(cov)
    assert find_metrics((trace_ratio, {"power": 2}))["trace_ratio"](cov).value == trace_ratio(cov) ** 2
    assert find_metrics(("svcca", {"k": 3}))["svcca"](cov).kept_x == 3
    assert find_metrics(pc.svcca)["svcca"](cov).value == pc.svcca(cov).mean


@pytest.mark.parametrize("result", ["1.0", None, [1.0], 1j, torch.ones(2)])
def test_what_an_own_function_gives_is_a_number(result: Any) -> None:
    score = find_metrics({"mine": lambda cov: result})["mine"]
    with pytest.raises(TypeError, match=f"metric 'mine' gave a {type(result).__name__}; expected one number"):
        score(covariance(*related(20, 3, 3)))


@pytest.mark.parametrize(
    ("metrics", "needed"), [("svcca", False), ("rsa", True), (["nbs", "debiased_cka"], True), (trace_ratio, True)]
)
def test_norms_are_kept_where_they_are_needed(metrics: Any, needed: bool) -> None:
    assert needs_norms(find_metrics(metrics)) is needed


def test_metrics_of_rows_are_told_apart() -> None:
    x, y = (torch.from_numpy(side) for side in related(60, 5, 4))
    chosen = find_metrics({"rbf_cka": {"sigma": 0.5, "debiased": True}, "near": (pc.mutual_knn, {"k": 3}), "svcca": {}})
    assert needs_rows(chosen)
    assert not needs_rows(find_metrics(["svcca", "rsa", trace_ratio]))
    assert not needs_norms(find_metrics(["rbf_cka", "jaccard"]))
    assert chosen["rbf_cka"].of_rows(x, y).value == pc.rbf_cka(x, y, sigma=0.5, debiased=True)
    assert chosen["near"].of_rows(x, y).value == pc.mutual_knn(x, y, k=3)
    with pytest.raises(
        TypeError, match="metric 'near' needs the rows of both representations, which a Covariance does"
    ):
        chosen["near"](covariance(*related(60, 5, 4)))
    with pytest.raises(TypeError, match="metric 'svcca' is computed from a Covariance, and was given rows"):
        chosen["svcca"].of_rows(x, y)
    with pytest.raises(ValueError, match="metric 'jaccard' has no option 'sigma'; expected k or distance"):
        find_metrics({"jaccard": {"sigma": 1.0}})


def test_own_functions_see_one_pair_at_a_time(tmp_path: Path) -> None:
    torch.manual_seed(0)
    nets = [torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)) for _ in range(3)]
    images = torch.randn(200, 8)
    own = {"mine": trace_ratio, "debiased": lambda cov: pc.linear_cka(cov, debiased=True), "rsa": {}}
    result = pc.compare(nets[0], nets[1:], images, "1", own, keep_covariances=True)
    found = result.table.set_index(["candidate", "metric"])["value"]
    for name in ("0", "1"):
        cov = result.covariances[name, "1"]
        assert found[name, "mine"] == pytest.approx(trace_ratio(cov), abs=1e-12)
        assert found[name, "debiased"] == pytest.approx(pc.linear_cka(cov, debiased=True), abs=1e-12)
        assert found[name, "rsa"] == pytest.approx(pc.rsa(cov), abs=1e-12)
    result.plot(tmp_path / "mine.png")
    for i, net in enumerate(nets[:2]):
        np.save(tmp_path / f"{i}.npy", net[:2](images).detach().numpy())
    table = pc.compare_files(tmp_path / "0.npy", [tmp_path / "1.npy"], own)
    assert table["metric"].tolist() == ["mine", "debiased", "rsa"]
    assert table["value"].tolist() == pytest.approx(found["0"].tolist(), abs=1e-6)
