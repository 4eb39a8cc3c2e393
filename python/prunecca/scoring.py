"""Metrics by name, and the rows of a table from the covariances of one layer with every candidate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from .canonical import CanonicalCorrelations, cca, pwcca, svcca
from .covariance import Covariance
from .similarity import linear_cka, linear_regression, nbs, procrustes

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
_STACK_BYTES = 1 << 26  # of the candidates that one batched call takes; more gains nothing and costs memory


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


def score(covariances: Sequence[Covariance], metrics: Mapping[str, Metric]) -> list[list[dict[str, Any]]]:
    """For each covariance of one reference with a candidate, one row per metric: metric, value, kept_x, kept_y.

    ``kept_x`` and ``kept_y`` are None for metrics that keep no directions. The reference is decomposed once, and
    candidates of equal width are taken together.
    """
    rows: list[list[dict[str, Any]]] = [[] for _ in covariances]
    for together in _groups(covariances):
        batch = _stack([covariances[i] for i in together], covariances[0])
        for name, metric in metrics.items():
            result = metric(batch)
            canonical = isinstance(result, CanonicalCorrelations)
            values = _each(result.mean if canonical else result, len(together))
            kept_x = _each(result.kept_x, len(together)) if canonical else [None] * len(together)
            kept_y = _each(result.kept_y, len(together)) if canonical else [None] * len(together)
            for i, value, x, y in zip(together, values, kept_x, kept_y, strict=True):
                rows[i].append({"metric": name, "value": value, "kept_x": x, "kept_y": y})
    return rows


def _groups(covariances: Sequence[Covariance]) -> list[list[int]]:
    """Positions of the covariances that can be stacked, in portions of ``_STACK_BYTES``."""
    alike: dict[tuple[int, str], list[int]] = {}
    for i, cov in enumerate(covariances):
        alike.setdefault((cov.yy.shape[-1], cov.precision), []).append(i)
    groups = []
    for members in alike.values():
        one = covariances[members[0]]
        size = max(1, _STACK_BYTES // (8 * (one.yy.numel() + one.xy.numel())))
        groups += [members[start : start + size] for start in range(0, len(members), size)]
    return groups


def _stack(members: Sequence[Covariance], reference: Covariance) -> Covariance:
    """Candidates as one batch beside the one reference, whose own tensors stay as they are."""
    if len(members) == 1:
        return replace(members[0], mean_x=reference.mean_x, xx=reference.xx)
    norms = [cov.norms for cov in members if cov.norms is not None]
    return replace(
        members[0],
        mean_x=reference.mean_x,
        xx=reference.xx,
        mean_y=torch.stack([cov.mean_y for cov in members]),
        yy=torch.stack([cov.yy for cov in members]),
        xy=torch.stack([cov.xy for cov in members]),
        norms=torch.stack(norms) if norms else None,
    )


def _each(value: Any, count: int) -> list[Any]:
    # Python numbers stay as they are: as a tensor a float would be rounded to float32.
    return list(value.expand(count).tolist()) if isinstance(value, torch.Tensor) else [value] * count
