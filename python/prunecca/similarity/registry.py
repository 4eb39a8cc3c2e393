"""Metrics by name: the function, its options, and the name in words.

``METRICS`` has the functions alone, ``METRIC_NAMES`` the words. Most are functions of a ``Covariance``; some need a sample of
the rows themselves.

Example:
    >>> import torch
    >>> from prunecca import METRICS, StreamingCovariance
    >>> acc = StreamingCovariance(norms=True)
    >>> x = torch.randn(500, 5)
    >>> acc.update(x, x @ torch.linalg.qr(torch.randn(5, 5)).Q)
    >>> {name: round(float(METRICS[name](acc.finalize())), 3) for name in ("svcca", "linear_cka", "rsa")}
    {'svcca': 1.0, 'linear_cka': 1.0, 'rsa': 1.0}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from ..covariance.covariance import Covariance
from ..geometry.kernel import rbf_cka
from ..geometry.neighbourhoods import cknna, jaccard, mutual_knn
from ..geometry.rank_rsa import spearman_rsa
from ..sizes.minibatch import minibatch_cka
from .canonical import CanonicalCorrelations
from .cca import cca, mean_squared_cca, pillai, pwcca, svcca, yanai
from .cka import angular_cka, cka_distance, linear_cka
from .matching import hard_matching, permutation_matching, soft_matching, soft_matching_distance
from .operands import batch_shape, few_rows_told, members, python_number
from .procrustes import angular_procrustes, nbs, procrustes, procrustes_distance
from .regression import linear_regression, regression_rank
from .rsa import rsa
from .shape import gulp, shape_distance
from .spectrum import Kind
from .subspace_match import SubspaceMatch, maximum_match

_OF_ARRAYS = {"x", "y", "precision", "layout", "debiased"}

# What `find_metrics` takes: a name, a function, several of either, pairs, or what the names of the columns stand for.
MetricChoice = str | Callable[..., Any] | Iterable[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A metric that tables and command lines know by a name.

    Attributes:
        function: of a ``Covariance``, or of two arrays of rows, and the options.
        words: what a picture or a page calls it.
        predictor: of a fit, the directions of the predicting side that it uses, by the same arguments.
        norms: whether the covariance must have ``norms``.
        single: whether it takes covariances of one pair alone, so that a batch is taken one by one.
        takes: what it is computed from: a covariance, a sample of the rows themselves, or one batch after the other.
        dual: whether it takes those of rotated coordinates, and asks for them where there are more channels than rows.
        spectra: of both sides that it asks for in any case; None for none.
    """

    function: Callable[..., Any]
    words: str
    predictor: Callable[..., Any] | None = None
    norms: bool = False
    single: bool = False
    takes: Literal["covariance", "rows", "batches"] = "covariance"
    dual: bool = False
    spectra: Kind | None = None

    @property
    def counts(self) -> bool:
        """Whether the number of datapoints may be part of the value, and not of warnings alone."""
        return self.norms or self.single

    @property
    def options(self) -> list[str]:
        """The keyword arguments that a user may choose."""
        fixed = (
            _OF_ARRAYS if self.takes == "covariance" else _OF_ARRAYS - {"debiased"}
        )  # which takes no other covariance
        return [name for name in inspect.signature(self.function).parameters if name not in fixed]


@dataclass(frozen=True)
class Score:
    """A metric with its options.

    Attributes:
        metric: the metric.
        options: by name.
        name: what error messages call it.
    """

    metric: Metric
    options: Mapping[str, Any]
    name: str = ""

    def __call__(self, cov: Covariance) -> Scored:
        """The metric of one pair, or of a batch; whoever asks warns of few rows, once for all.

        Raises:
            TypeError: a metric of rows.
        """
        if self.metric.takes != "covariance":
            raise TypeError(
                f"metric {self.name!r} needs the rows of both representations, which a Covariance does not hold; "
                "give it two arrays of them"
            )
        with few_rows_told():
            return self._scored(cov)

    def _scored(self, cov: Covariance) -> Scored:
        if self.metric.single:
            return _together([self._one(member) for member in members(cov)], cov)
        value = self.metric.function(cov, **self.options)
        if isinstance(value, CanonicalCorrelations):
            return Scored(value.mean, value.kept_x, value.kept_y)
        if self.metric.predictor is None:
            return Scored(value)
        kept = python_number(self.metric.predictor(cov, **self.options))
        return Scored(value, kept_y=kept) if self.options.get("target") == "x" else Scored(value, kept_x=kept)

    def of_rows(self, x: torch.Tensor, y: torch.Tensor) -> Scored:
        """The metric of two samples of the same rows, (N, Cx) and (N, Cy); ``TypeError`` for one of covariances."""
        if self.metric.takes == "covariance":
            raise TypeError(
                f"metric {self.name!r} is computed from a Covariance, and was given rows; expected a Covariance"
            )
        return Scored(self.metric.function(x, y, layout="nc", **self.options))

    def _one(self, cov: Covariance) -> Scored:
        value = self.metric.function(cov, **self.options)
        if isinstance(value, CanonicalCorrelations):
            return Scored(float(value), value.kept_x, value.kept_y)
        if isinstance(value, SubspaceMatch):
            return Scored(float(value), len(value.units_x), len(value.units_y))
        try:
            if isinstance(value, str | bytes):
                raise TypeError
            return Scored(float(value))
        except (TypeError, ValueError, RuntimeError):
            given = f"a {type(value).__name__}"
            raise TypeError(f"metric {self.name!r} gave {given}; expected one number") from None


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


def _together(scored: list[Scored], cov: Covariance) -> Scored:
    shape = batch_shape(cov)
    if not shape:
        return scored[0]
    value = torch.tensor([one.value for one in scored], dtype=torch.float64).reshape(shape)
    kept = [[getattr(one, side) for one in scored] for side in ("kept_x", "kept_y")]
    x, y = (None if None in side else torch.tensor(side, dtype=torch.int64).reshape(shape) for side in kept)
    return Scored(value, x, y)


_REGISTRY = {
    "svcca": Metric(svcca, "mean CCA similarity (SVCCA, 99 %)", dual=True, spectra="covariance"),
    "cca": Metric(cca, "mean CCA similarity", spectra="correlation"),
    "pwcca": Metric(pwcca, "PWCCA similarity", spectra="correlation"),
    "linear_cka": Metric(linear_cka, "linear CKA", dual=True),
    "debiased_cka": Metric(partial(linear_cka, debiased=True), "debiased linear CKA", norms=True, dual=True),
    "nbs": Metric(nbs, "normalised Bures similarity", dual=True),
    "procrustes": Metric(procrustes, "Procrustes similarity", dual=True),
    "linear_regression": Metric(linear_regression, "linear regression R²", regression_rank),
    "mean_squared_cca": Metric(mean_squared_cca, "mean squared CCA correlation", spectra="correlation"),
    "yanai": Metric(yanai, "Yanai's coefficient of determination", spectra="correlation"),
    "pillai": Metric(pillai, "normalised Pillai's trace", spectra="correlation"),
    "rsa": Metric(rsa, "RSA of squared distances", norms=True, dual=True),
    "hard_matching": Metric(hard_matching, "hard matching correlation"),
    "permutation_matching": Metric(permutation_matching, "permutation matching correlation"),
    "soft_matching": Metric(soft_matching, "soft matching correlation"),
    "maximum_match": Metric(maximum_match, "maximum match similarity", single=True),
    "angular_cka": Metric(angular_cka, "angular CKA distance", dual=True),
    "cka_distance": Metric(cka_distance, "CKA distance", dual=True),
    "angular_procrustes": Metric(angular_procrustes, "angular Procrustes distance", dual=True),
    "procrustes_distance": Metric(procrustes_distance, "Procrustes distance", dual=True),
    "shape_distance": Metric(shape_distance, "shape distance", dual=True),
    "gulp": Metric(gulp, "GULP distance", dual=True, spectra="covariance"),
    "soft_matching_distance": Metric(soft_matching_distance, "soft matching distance"),
    "rbf_cka": Metric(rbf_cka, "RBF CKA", takes="rows"),
    "spearman_rsa": Metric(spearman_rsa, "Spearman RSA", takes="rows"),
    "mutual_knn": Metric(mutual_knn, "mutual nearest neighbours", takes="rows"),
    "cknna": Metric(cknna, "CKNNA", takes="rows"),
    "jaccard": Metric(jaccard, "Jaccard similarity of neighbourhoods", takes="rows"),
    "minibatch_cka": Metric(minibatch_cka, "linear CKA, estimated from minibatches", takes="batches"),
}

# Each is a function of two arrays, and of a Covariance unless it takes rows.
METRICS: dict[str, Callable[..., Any]] = {name: metric.function for name, metric in _REGISTRY.items()}
METRIC_NAMES = {name: metric.words for name, metric in _REGISTRY.items()}


def find_metrics(metrics: MetricChoice) -> dict[str, Score]:
    """The metrics asked for, with their options bound.

    Args:
        metrics: one name, or a function of a ``Covariance`` that gives a number; several of them, or of pairs such as
            ``("svcca", {"trim": 0.98})``; or a mapping of names to options such as ``{"svcca": {"trim": 0.98}}``, where a
            name of your own stands for a function, for a metric's name, or for a pair of either and options:
            ``{"svcca 95": ("svcca", {"variance": 0.95}), "mine": function}``.

    Returns:
        By the name that a table gives it, what scores a ``Covariance``.

    Raises:
        ValueError: a metric or an option that does not exist, or a name that stands for two.
        TypeError: what is no metric.

    Example:
        >>> list(find_metrics(["svcca", "nbs"]))
        ['svcca', 'nbs']
        >>> list(find_metrics({"svcca": {}, "svcca 20": ("svcca", {"k": 20}), "count": lambda cov: cov.count}))
        ['svcca', 'svcca 20', 'count']
    """
    chosen: dict[str, Score] = {}
    for name, given in _named(metrics):
        if name in chosen:
            example = "{'svcca 95': ('svcca', {'variance': 0.95})}"
            raise ValueError(f"metric {name!r} is given twice; expected a name of its own for each, such as {example}")
        chosen[name] = _score(name, given)
    if not chosen:
        raise ValueError(f"no metric was given; expected some of {', '.join(_REGISTRY)}")
    return chosen


def needs_norms(chosen: Mapping[str, Score]) -> bool:
    """Whether the covariances of these metrics must be accumulated with ``norms=True``."""
    return any(score.metric.norms for score in chosen.values())


def are_of_batches(chosen: Mapping[str, Score]) -> bool:
    """Whether these metrics are estimated from batches, which leave nothing that the others could be computed from.

    Raises:
        ValueError: some are, and some are not.
    """
    of_batches = [name for name, score in chosen.items() if score.metric.takes == "batches"]
    if of_batches and len(of_batches) < len(chosen):
        raise ValueError(
            f"metric {of_batches[0]!r} is estimated from whole batches, and the others are not; expected two calls"
        )
    return bool(of_batches)


def needs_rows(chosen: Mapping[str, Score]) -> bool:
    """Whether some of these metrics are computed from a sample of rows, by ``Score.of_rows``."""
    return any(score.metric.takes == "rows" for score in chosen.values())


def _named(metrics: Any) -> list[tuple[str, Any]]:
    """Names beside what each stands for."""
    if isinstance(metrics, Mapping):
        items: list[Any] = list(metrics.items())
    elif isinstance(metrics, str) or callable(metrics) or _has_options(metrics):
        items = [metrics]
    elif isinstance(metrics, Iterable):
        items = list(metrics)
    else:
        items = [metrics]
    return [_pair(item) for item in items]


def _pair(item: Any) -> tuple[str, Any]:
    if isinstance(item, str):
        return item, {}
    if callable(item):
        return _name_of(item), item
    if isinstance(item, tuple | list) and len(item) == 2:
        if isinstance(item[0], str):
            return item[0], item[1]
        if callable(item[0]):
            return _name_of(item[0]), tuple(item)
    raise TypeError(
        f"a metric is given as {item!r}; expected a name, a function of a Covariance, "
        "or a pair of a name and options such as ('svcca', {'variance': 0.95})"
    )


def _has_options(given: Any) -> bool:
    return isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[1], Mapping)


def _name_of(function: Callable[..., Any]) -> str:
    for name, metric in _REGISTRY.items():
        if metric.function is function:
            return name
    name = getattr(function, "__name__", "<lambda>")
    if name == "<lambda>":
        raise ValueError("a function without a name is given as a metric; expected a name for it: {'name': function}")
    return str(name)


def _score(name: str, given: Any) -> Score:
    what, options = (name, given) if isinstance(given, Mapping) else given if _has_options(given) else (given, {})
    if isinstance(what, str):
        if what not in _REGISTRY:
            raise ValueError(f"there is no metric {what!r}; expected some of {', '.join(_REGISTRY)}")
        metric = _REGISTRY[what]
    elif callable(what):
        known = next((metric for metric in _REGISTRY.values() if metric.function is what), None)
        metric = known or Metric(what, name, norms=True, single=True)
    else:
        raise TypeError(
            f"metric {name!r} is given {given!r}; expected a mapping of its options, such as {{}}, "
            "a function of a Covariance, or a pair of a metric and its options"
        )
    if _REGISTRY.get(name, metric) is not metric:
        raise ValueError(f"the name {name!r} is that of another metric; expected a name that is not taken")
    _check_options(name, metric, options)
    return Score(metric, dict(options), name)


def _check_options(name: str, metric: Metric, options: Mapping[str, Any]) -> None:
    if metric not in _REGISTRY.values():
        try:
            inspect.signature(metric.function).bind(None, **options)
        except TypeError as error:
            raise TypeError(
                f"metric {name!r} cannot be called with a Covariance and the options {dict(options)}: {error}"
            ) from None
        except ValueError:  # a function written in C may not tell its arguments
            return
        return
    for option in options:
        if option not in metric.options:
            known = " or ".join(metric.options) or "none"
            raise ValueError(f"metric {name!r} has no option {option!r}; expected {known}")
