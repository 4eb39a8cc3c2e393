"""Metrics by name, and the rows of a table from the covariances of one layer with every candidate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from ..covariance.covariance import Covariance
from .cca import cca, pwcca, svcca
from .cka import linear_cka
from .procrustes import nbs, procrustes
from .regression import linear_regression

Metric = Callable[[Covariance], Any]

METRICS: dict[str, Callable[..., Any]] = {
    "svcca": svcca,
    "cca": cca,
    "pwcca": pwcca,
    "linear_cka": linear_cka,
    "debiased_cka": partial(linear_cka, debiased=True),
    "nbs": nbs,
    "procrustes": procrustes,
    "linear_regression": linear_regression,
}
_OF_ARRAYS = {"x", "y", "precision", "layout", "debiased"}


def choose_metrics(metrics: str | Iterable[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    """The metrics asked for: one name, names, or a mapping of names to options such as ``{"svcca": {"trim": 0.98}}``.

    Raises ``ValueError`` for a metric or an option that does not exist, ``TypeError`` for options that are no mapping.
    """
    options = {metrics: {}} if isinstance(metrics, str) else metrics
    if not isinstance(options, Mapping):
        options = {name: {} for name in options}
    if not options:
        raise ValueError(f"no metric was given; expected some of {', '.join(METRICS)}")
    chosen: dict[str, Metric] = {}
    for name, given in options.items():
        if name not in METRICS:
            raise ValueError(f"there is no metric {name!r}; expected some of {', '.join(METRICS)}")
        if not isinstance(given, Mapping):
            raise TypeError(f"metric {name!r} is given {given!r}; expected a mapping of its options, such as {{}}")
        known = [option for option in inspect.signature(METRICS[name]).parameters if option not in _OF_ARRAYS]
        for option in given:
            if option not in known:
                raise ValueError(f"metric {name!r} has no option {option!r}; expected {' or '.join(known) or 'none'}")
        chosen[name] = partial(METRICS[name], **given)
    return chosen


METRIC_NAMES = {
    "svcca": "mean CCA similarity (SVCCA, 99 %)",
    "cca": "mean CCA similarity",
    "pwcca": "PWCCA similarity",
    "linear_cka": "linear CKA",
    "debiased_cka": "debiased linear CKA",
    "nbs": "normalised Bures similarity",
    "procrustes": "Procrustes similarity",
    "linear_regression": "linear regression R²",
}
