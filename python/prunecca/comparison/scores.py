"""Rows of a table from the covariances of pairs of layers, and from samples of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..covariance.covariance import Covariance
from ..covariance.memo import Memo
from ..linalg.cusolver import free_bytes
from ..similarity.registry import Score
from ..similarity.spectrum import decompose

T = TypeVar("T")

_HOST_BYTES = 1 << 26  # of the covariances that are taken together; more gains nothing and costs memory
_SHARE = 8  # of a device's free memory a batch takes this part, beside copies, decompositions and their workspace


def room(device: torch.device) -> int:
    """Bytes of covariances that are best taken together: a device is kept busy by many matrices at once."""
    free = free_bytes(device) if device.type == "cuda" else 0
    return max(_HOST_BYTES, free // _SHARE)


def bytes_of(cov: Covariance) -> int:
    """What one of ``score``'s covariances counts for."""
    return 8 * (cov.xx.numel() + cov.yy.numel() + cov.xy.numel())


def portions(lists: Iterable[Sequence[T]], covariances: Callable[[T], Iterable[Covariance]]) -> Iterator[list[T]]:
    """What several lists hold, in order, as much at a time as there is room for.

    Args:
        lists: none of which is divided.
        covariances: of one of their elements.
    """
    held: list[T] = []
    size = 0
    for some in lists:
        held += some
        known = [cov for one in some for cov in covariances(one)]
        size += sum(map(bytes_of, known))
        if known and size >= room(known[0].xy.device):
            yield held
            held, size = [], 0
    if held:
        yield held


def score(
    covariances: Sequence[Covariance],
    metrics: Mapping[str, Score],
    samples: Sequence[tuple[Tensor, Tensor]] = (),
) -> list[list[dict[str, Any]]]:
    """Rows of a table from the covariances of pairs of representations.

    Pairs of equal widths are taken together, of whatever layers they are, and a representation that is in several of
    them is decomposed once.

    Args:
        covariances: one per pair.
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
    for portion in portions(([i] for i in range(len(covariances))), lambda i: [covariances[i]]):
        alike = _grouped(portion, lambda i: _form(covariances[i]))
        by_count = _grouped(portion, lambda i: (_form(covariances[i]), covariances[i].count))
        stacks = {together: _stack([covariances[i] for i in together]) for together in {*alike, *by_count}}
        for name, metric in metrics.items():
            decompose([stacks[together] for together in alike], metric.metric.spectra)
            for together in by_count if metric.metric.counts else alike:
                scored = metric(stacks[together])
                columns = (_each(column, len(together)) for column in (scored.value, scored.kept_x, scored.kept_y))
                for i, value, x, y in zip(together, *columns, strict=True):
                    rows[i].append({"metric": name, "value": value, "kept_x": x, "kept_y": y, "sampled": None})
    return rows


def _form(cov: Covariance) -> tuple[Any, ...]:
    known = tuple(tensor is None for tensor in (cov.norms, cov.error_x, cov.error_y))
    return (*cov.xy.shape, cov.xy.device, cov.precision, cov.rotation, *known)


def _grouped(positions: Iterable[int], key: Callable[[int], Any]) -> list[tuple[int, ...]]:
    groups: dict[Any, list[int]] = {}
    for i in positions:
        groups.setdefault(key(i), []).append(i)
    return [tuple(group) for group in groups.values()]


def _stack(members: Sequence[Covariance]) -> Covariance:
    """A batch of pairs; a side that all of them share stays as it is.

    Its count is the smallest, for metrics that do not go by it.
    """
    first = members[0]
    if len(members) == 1:
        return first
    sides: dict[str, Any] = {}
    for own, mean, error, memo in (("xx", "mean_x", "error_x", "memo_x"), ("yy", "mean_y", "error_y", "memo_y")):
        shared = all(getattr(cov, own) is getattr(first, own) for cov in members)
        for name in (mean, own, error):
            sides[name] = getattr(first, name) if shared else _stacked([getattr(cov, name) for cov in members])
        parts = [getattr(cov, memo) for cov in members]
        sides[memo] = parts[0] if shared else Memo(sides[own], parts)
    sides["xy"], sides["norms"] = (_stacked([getattr(cov, name) for cov in members]) for name in ("xy", "norms"))
    return replace(first, count=min(cov.count for cov in members), **sides)


def _stacked(tensors: Sequence[Tensor | None]) -> Tensor | None:
    known = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(known) if known else None


def _each(value: Any, count: int) -> list[Any]:
    # Python numbers stay as they are: as a tensor a float would be rounded to float32.
    return list(value.expand(count).tolist()) if isinstance(value, torch.Tensor) else [value] * count
