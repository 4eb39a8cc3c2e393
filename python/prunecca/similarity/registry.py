"""Metrics by name: the function, its options, and the name in words.

``METRICS`` has the functions alone, ``METRIC_NAMES`` the words.

Example:
    >>> import torch
    >>> from prunecca import METRICS, StreamingCovariance
    >>> acc = StreamingCovariance(norms=True)
    >>> x = torch.randn(500, 5)
    >>> acc.update(x, x @ torch.linalg.qr(torch.randn(5, 5)).Q)
    >>> {name: round(float(metric(acc.finalize())), 3) for name, metric in METRICS.items()}
    {'svcca': 1.0, 'cca': 1.0, 'pwcca': 1.0, 'linear_cka': 1.0, 'debiased_cka': 1.0, 'nbs': 1.0, 'procrustes': 1.0, 'linear_regression': 1.0}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..covariance.covariance import Covariance
from .cca import CanonicalCorrelations, cca, pwcca, svcca
from .cka import linear_cka
from .operands import python_number
from .procrustes import nbs, procrustes
from .regression import linear_regression, regression_rank

_OF_ARRAYS = {"x", "y", "precision", "layout", "debiased"}


@dataclass(frozen=True)
class Metric:
    """A metric that tables and command lines know by a name.

    Attributes:
        function: of a ``Covariance`` and the options.
        words: what a picture or a page calls it.
        predictor: of a fit, the directions of the predicting side that it uses, by the same arguments.
    """

    function: Callable[..., Any]
    words: str
    predictor: Callable[..., Any] | None = None

    @property
    def options(self) -> list[str]:
        """The keyword arguments that a user may choose."""
        return [name for name in inspect.signature(self.function).parameters if name not in _OF_ARRAYS]


@dataclass(frozen=True)
class Score:
    """A metric with its options.

    Attributes:
        metric: the metric.
        options: by name.
    """

    metric: Metric
    options: Mapping[str, Any]

    def __call__(self, cov: Covariance) -> Scored:
        """The metric of one pair, or of a batch."""
        value = self.metric.function(cov, **self.options)
        if isinstance(value, CanonicalCorrelations):
            return Scored(value.mean, value.kept_x, value.kept_y)
        if self.metric.predictor is None:
            return Scored(value)
        kept = python_number(self.metric.predictor(cov, **self.options))
        return Scored(value, kept_y=kept) if self.options.get("target") == "x" else Scored(value, kept_x=kept)


@dataclass(frozen=True)
class Scored:
    """What a table says of a metric: of one pair Python numbers, of a batch tensors of its leading shape.

    Attributes:
        value: of the metric.
        kept_x: directions of x that took part; None for a metric that chooses none.
        kept_y: directions of y that took part.
    """

    value: Any
    kept_x: Any = None
    kept_y: Any = None


_REGISTRY = {
    "svcca": Metric(svcca, "mean CCA similarity (SVCCA, 99 %)"),
    "cca": Metric(cca, "mean CCA similarity"),
    "pwcca": Metric(pwcca, "PWCCA similarity"),
    "linear_cka": Metric(linear_cka, "linear CKA"),
    "debiased_cka": Metric(partial(linear_cka, debiased=True), "debiased linear CKA"),
    "nbs": Metric(nbs, "normalised Bures similarity"),
    "procrustes": Metric(procrustes, "Procrustes similarity"),
    "linear_regression": Metric(linear_regression, "linear regression R²", regression_rank),
}

# Each is a function of a Covariance, and of two arrays.
METRICS: dict[str, Callable[..., Any]] = {name: metric.function for name, metric in _REGISTRY.items()}
METRIC_NAMES = {name: metric.words for name, metric in _REGISTRY.items()}


def find_metrics(metrics: str | Iterable[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, Score]:
    """The metrics asked for, with their options bound.

    Args:
        metrics: one name, names, or a mapping of names to options such as ``{"svcca": {"trim": 0.98}}``.

    Returns:
        By name, what scores a ``Covariance``.

    Raises:
        ValueError: a metric or an option that does not exist.
        TypeError: options that are no mapping.

    Example:
        >>> list(find_metrics(["svcca", "nbs"]))
        ['svcca', 'nbs']
    """
    options = {metrics: {}} if isinstance(metrics, str) else metrics
    if not isinstance(options, Mapping):
        options = {name: {} for name in options}
    if not options:
        raise ValueError(f"no metric was given; expected some of {', '.join(_REGISTRY)}")
    chosen: dict[str, Score] = {}
    for name, given in options.items():
        if name not in _REGISTRY:
            raise ValueError(f"there is no metric {name!r}; expected some of {', '.join(_REGISTRY)}")
        if not isinstance(given, Mapping):
            raise TypeError(f"metric {name!r} is given {given!r}; expected a mapping of its options, such as {{}}")
        known = _REGISTRY[name].options
        for option in given:
            if option not in known:
                raise ValueError(f"metric {name!r} has no option {option!r}; expected {' or '.join(known) or 'none'}")
        chosen[name] = Score(_REGISTRY[name], dict(given))
    return chosen
