"""Rows of a table from the covariances of one layer with every candidate, and from samples of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..covariance.covariance import Covariance
from ..similarity.registry import Score

_STACK_BYTES = 1 << 26  # of the candidates that one batched call takes; more gains nothing and costs memory


def score(
    covariances: Sequence[Covariance],
    metrics: Mapping[str, Score],
    samples: Sequence[tuple[Tensor, Tensor]] = (),
) -> list[list[dict[str, Any]]]:
    """Rows of a table from the covariances of one reference with its candidates.

    The reference is decomposed once, and candidates of equal width are taken together.

    Args:
        covariances: one per candidate; the ``x`` of all is the reference.
        metrics: by name.
        samples: for each covariance (N, Cx) and (N, Cy) rows of both sides; needed where ``needs_rows`` says so.

    Returns:
        For each covariance one row per metric: metric, value, kept_x, kept_y, sampled. The kept ones are None for metrics
        that keep no directions; ``sampled`` is how many rows the metric was computed from, None where it is exact.
    """
    if not samples:
        return _of_covariances(covariances, metrics)  # which refuse a metric of rows
    exact = {name: metric for name, metric in metrics.items() if metric.metric.takes == "covariance"}
    rows = _of_covariances(covariances, exact)
    for own, (x, y) in zip(rows, samples, strict=True):
        for name, metric in metrics.items():
            if metric.metric.takes == "rows":
                scored = {"value": metric.of_rows(x, y).value, "kept_x": None, "kept_y": None}
                own.append({"metric": name, **scored, "sampled": len(x)})
    order = list(metrics)
    return [sorted(own, key=lambda row: order.index(row["metric"])) for own in rows]


def _of_covariances(covariances: Sequence[Covariance], metrics: Mapping[str, Score]) -> list[list[dict[str, Any]]]:
    rows: list[list[dict[str, Any]]] = [[] for _ in covariances]
    for together in _groups(covariances):
        batch = _stack([covariances[i] for i in together], covariances[0])
        for name, metric in metrics.items():
            scored = metric(batch)
            columns = (_each(column, len(together)) for column in (scored.value, scored.kept_x, scored.kept_y))
            for i, value, x, y in zip(together, *columns, strict=True):
                rows[i].append({"metric": name, "value": value, "kept_x": x, "kept_y": y, "sampled": None})
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
    """Candidates as one batch beside the one reference, whose tensors and spectrum serve all of them."""
    if len(members) == 1:
        return replace(members[0], mean_x=reference.mean_x, xx=reference.xx, memo_x=reference.memo_x)
    errors = [cov.error_y for cov in members if cov.error_y is not None]
    norms = [cov.norms for cov in members if cov.norms is not None]
    return replace(
        members[0],
        mean_x=reference.mean_x,
        xx=reference.xx,
        memo_x=reference.memo_x,
        mean_y=torch.stack([cov.mean_y for cov in members]),
        yy=torch.stack([cov.yy for cov in members]),
        xy=torch.stack([cov.xy for cov in members]),
        norms=torch.stack(norms) if norms else None,
        error_y=torch.stack(errors) if errors else None,
    )


def _each(value: Any, count: int) -> list[Any]:
    # Python numbers stay as they are: as a tensor a float would be rounded to float32.
    return list(value.expand(count).tolist()) if isinstance(value, torch.Tensor) else [value] * count
