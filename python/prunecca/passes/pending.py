"""Rows of small batches, kept until there are enough of them for one native call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..covariance.view import View
from .team import Team

# Fewer rows are taken in float64, and cost as much again to add up the products of large pairs.
ENOUGH = 1024

_Pairs = Mapping[str, tuple[int, list[tuple[int, int]]]]


class Pending:
    """The rows of one group of layers, batch after batch.

    Args:
        team: that takes them.

    Attributes:
        rows: that wait.
        taking: whether those of the present batch are among them.
    """

    def __init__(self, team: Team) -> None:
        self.team = team
        self.rows = 0
        self.taking = False
        self._references: list[list[Tensor]] = []
        self._others: dict[str, list[list[Tensor]]] = {}
        self._labels: dict[str, list[tuple[str, str]]] = {}
        self._batches: list[int] = []

    def add_references(self, views: Sequence[View], number: int) -> None:
        """The references' rows of a batch; the candidates' must follow."""
        self.taking = True
        self.rows += views[0].rows
        self._batches.append(number)
        self._references.append([_rows(view) for view in views])
        self._labels[""] = [(view.name, view.where) for view in views]

    def add_candidate(self, name: str, views: Sequence[View]) -> None:
        """A candidate's rows of the same batch."""
        self._others.setdefault(name, []).append([_rows(view) for view in views])
        self._labels[name] = [(view.name, view.where) for view in views]

    def flush(self, pairs: _Pairs) -> None:
        """Give the team what there is.

        Args:
            pairs: for each candidate the position of its first member and its pairs, as ``Team.add_beside`` takes them.
        """
        if not self._references:
            return
        references = self._joined("", self._references)
        self.team.add_references(references)
        for name, batches in self._others.items():
            first, own = pairs[name]
            self.team.add_beside(first, references, self._joined(name, batches), own)
        self.rows, self._references, self._others, self._batches = 0, [], {}, []

    def _joined(self, name: str, batches: list[list[Tensor]]) -> list[View]:
        first, last = self._batches[0], self._batches[-1]
        views = []
        for rows, (label, where) in zip(zip(*batches, strict=True), self._labels[name], strict=True):
            if last > first:
                where = where.replace(f"batch {last}", f"batches {first} to {last}")
            views.append(View(torch.cat(rows), 1, label, where))
        return views


def _rows(view: View) -> Tensor:
    """A copy of the rows that count, (K, C); on the host those that are not finite are told at once, with their batch."""
    rows = view.gathered(torch.arange(view.rows) if view.kept is None else view.kept).tensor
    if not rows.is_cuda:
        finite = rows.isfinite().all(0)
        if not bool(finite.all()):
            channel = int((~finite).nonzero()[0])
            raise ValueError(f"{view.where}{view.name} holds NaN or infinity, first in channel {channel}")
    return rows
