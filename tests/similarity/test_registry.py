"""Metrics by name."""

from __future__ import annotations

from typing import Any

import pytest
from representations import covariance, related

import prunecca as pc
from prunecca.similarity.registry import METRIC_NAMES, METRICS, find_metrics

pytestmark = pytest.mark.usefixtures("one_thread")


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
    ],
)
def test_what_does_not_exist_is_named(metrics: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        find_metrics(metrics)
