"""Sums and products of weighted rows, in float64 on the device of the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .moments import FAR
from .view import Call, View

_ROWS = 1 << 14  # that are widened to float64 at a time
_LEAST, _LEAST_WITH_NORMS = (
    2.0**-1040,
    2.0**-500,
)  # mean squares below which products lose digits; as in the native code


@dataclass(slots=True)
class Outcome:
    """Of one call: why nothing was added, and where; or which views' means lie far from their shifts."""

    reason: str
    view: int
    channel: int
    far: list[int]

    def sentence(self, view: View) -> str:
        return f"{view.where}{view.name} holds NaN or infinity, first in channel {self.channel}"


def add_weighted(call: Call, weights: Tensor, any_range: bool) -> Outcome:
    """Add rows so many times as their weights say, or nothing.

    Args:
        call: of views whose rows were gathered, (rows, C).
        weights: (rows,) float64, positive.
        any_range: accept what is lost to underflow.

    Returns:
        As of a native call.
    """
    sums = [torch.zeros_like(shift) for shift in call.shifts]
    products = [torch.zeros_like(p) for p in call.products]
    norms = [torch.zeros_like(n) for n in call.norms]
    for start in range(0, len(weights), _ROWS):
        w = weights[start : start + _ROWS]
        rows = [v.tensor[start : start + _ROWS].double() - s for v, s in zip(call.views, call.shifts, strict=True)]
        scaled = [x * w[:, None] for x in rows]
        squares = [x.square().sum(1) for x in rows]
        for total, x in zip(sums, scaled, strict=True):
            total += x.sum(0)
        for k, (i, j) in enumerate(call.pairs):
            product = rows[i].mT @ scaled[j]
            products[k] += torch.triu(product) if i == j else product
            if norms:
                a, b = squares[i], squares[j]
                norms[k] += torch.cat([(w * a * b).sum()[None], b @ scaled[i], a @ scaled[j]])
    outcome = _refused(call, sums, products, norms, None if any_range else float(weights.sum()))
    if outcome.reason:
        return outcome
    for state, more in zip((*call.sums, *call.products, *call.norms), (*sums, *products, *norms), strict=True):
        if state is not None:
            state += more
    return Outcome("", -1, -1, _far(call, float(weights.sum())))


def _refused(
    call: Call, sums: list[Tensor], products: list[Tensor], norms: list[Tensor], count: float | None
) -> Outcome:
    """Why the sums of a batch cannot be added; ``count`` of its rows, or None where any range will do."""
    for i, total in enumerate(sums):
        if not bool(torch.isfinite(total).all()):
            return Outcome("not finite", i, _first(total, torch.isfinite), [])
    own = [(k, i) for k, (i, j) in enumerate(call.pairs) if i == j]
    for k, i in own:
        squares = products[k].diagonal()
        if not bool(torch.isfinite(squares).all()):
            return Outcome("not finite", i, _first(squares, torch.isfinite), [])
        if norms and not bool(torch.isfinite(norms[k][0])):
            return Outcome("not finite", i, 0, [])
    least = _LEAST_WITH_NORMS if norms else _LEAST
    for k, i in own if count is not None else []:
        squares = products[k].diagonal()
        lost = (squares + call.products[k].diagonal() < least * (count or 0.0)) & ((squares != 0) | (sums[i] != 0))
        if bool(lost.any()):
            return Outcome("underflow", i, int(lost.nonzero()[0]), [])
    return Outcome("", -1, -1, [])


def _first(values: Tensor, right: Callable[[Tensor], Tensor]) -> int:
    return int((~right(values)).nonzero()[0])


def _far(call: Call, count: float) -> list[int]:
    """Views whose means, of all rows so far, lie far from their shifts."""
    far: list[int] = []
    for k, (i, j) in enumerate(call.pairs):
        total = call.sums[i]
        if i != j or total is None or not call.counts:
            continue
        of_mean = total.square() / (call.counts[i] + count)
        if bool((of_mean > FAR * (call.products[k].diagonal() - of_mean)).any()):
            far.append(i)
    return far
