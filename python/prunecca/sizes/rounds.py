"""Rounds over the data: features of all datapoints at a time, gathered batch by batch within a budget of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..covariance.covariance import Precision
from .dual import DualAccumulator


@dataclass(frozen=True)
class FeatureRange:
    """Features that one representation gives in one round.

    Attributes:
        start: the first.
        stop: one after the last; as ``start`` where there are none left.
    """

    start: int
    stop: int


def feature_rounds(
    features: Sequence[int], datapoints: int, budget: int, itemsize: int = 4
) -> list[list[FeatureRange]]:
    """Which features each representation gives in each round, so that all of them together keep to a budget.

    Args:
        features: of each representation.
        datapoints: of all of them.
        budget: bytes of the features of one round; no less than one feature of each is taken.
        itemsize: bytes of one number.

    Returns:
        One list per round, with one range per representation.

    Raises:
        ValueError: a budget that is not above 0.
    """
    if budget <= 0:
        raise ValueError(f"the budget is {budget} bytes; expected more than 0")
    rounds = -(-sum(features) * max(1, datapoints) * itemsize // budget)
    while True:  # widths are rounded up, so that a round more may be needed
        widths = [-(-f // rounds) for f in features]
        if sum(widths) * datapoints * itemsize <= budget or rounds >= max(features):
            break
        rounds += 1
    count = max(-(-f // w) if w else 0 for f, w in zip(features, widths, strict=True))
    return [
        [FeatureRange(min(k * w, f), min((k + 1) * w, f)) for f, w in zip(features, widths, strict=True)]
        for k in range(count)
    ]


class FeatureRounds:
    """Fills a ``DualAccumulator`` from batches of datapoints, in as many rounds over the data as a budget of memory needs.

    Args:
        features: of each representation: all that one datapoint has, flattened.
        datapoints: how many there are, the same in each round and in the same order.
        budget: bytes of the buffers of one round.
        precision: of the products.

    Attributes:
        accumulator: what the rounds fill.
        rounds: the ranges of features of each.

    Example:
        >>> import torch
        >>> from prunecca import linear_cka
        >>> x, y = torch.randn(60, 8, 5, 5), torch.randn(60, 300)
        >>> filling = FeatureRounds([200, 300], 60, budget=60 * 4 * 100)
        >>> for _ in filling.rounds:
        ...     for start in range(0, 60, 20):
        ...         filling.add(0, x[start : start + 20])
        ...         filling.add(1, y[start : start + 20])
        ...     filling.end_round()
        >>> len(filling.rounds), round(linear_cka(filling.accumulator.finalize()) - linear_cka(x, y, layout="flat"), 6)
        (5, 0.0)
    """

    def __init__(
        self, features: Sequence[int], datapoints: int, budget: int, *, precision: Precision = "float32"
    ) -> None:
        self.accumulator = DualAccumulator(precision=precision)
        itemsize = 8 if precision == "float64" else 4
        self.rounds = feature_rounds(features, datapoints, budget, itemsize)
        self._features = list(features)
        self._datapoints = datapoints
        self._round = 0
        self._buffers: list[Tensor | None] = [None] * len(self._features)
        self._filled = [0] * len(self._features)

    def add(self, member: int, batch: Tensor, *, where: str = "") -> None:
        """The next datapoints of one representation; of their features those of this round are kept.

        Args:
            member: position of the representation.
            batch: (n, ...); all dimensions but the first are features.
            where: put in front of error messages.

        Raises:
            ValueError: other features than were said, or more datapoints.
        """
        where = f"{where}: " if where else ""
        flat = batch.detach().flatten(1)
        if flat.shape[1] != self._features[member]:
            raise ValueError(f"{where}a datapoint has {flat.shape[1]} features; expected {self._features[member]}")
        start = self._filled[member]
        if start + len(flat) > self._datapoints:
            raise ValueError(
                f"{where}a round has more than {self._datapoints} datapoints; expected the same in each round"
            )
        wanted = self.rounds[self._round][member]
        if wanted.stop > wanted.start:
            buffer = self._buffer(member, flat, wanted.stop - wanted.start)
            buffer[start : start + len(flat)] = flat[:, wanted.start : wanted.stop]
        self._filled[member] = start + len(flat)

    def end_round(self) -> None:
        """Add the features of this round, once all datapoints have come.

        Raises:
            ValueError: fewer datapoints came than were said.
        """
        for member, (filled, wanted) in enumerate(zip(self._filled, self.rounds[self._round], strict=True)):
            if filled != self._datapoints:
                raise ValueError(
                    f"a round has {filled} datapoints; expected {self._datapoints}, the same in each round"
                )
            buffer = self._buffers[member]
            if buffer is not None and wanted.stop > wanted.start:
                self.accumulator.add(member, buffer[:, : wanted.stop - wanted.start])
        self._filled = [0] * len(self._features)
        self._round += 1

    def _buffer(self, member: int, flat: Tensor, width: int) -> Tensor:
        """Room for the features of a round, kept for the next: the first round is the widest."""
        known = self._buffers[member]
        if known is None:
            dtype = torch.float64 if flat.dtype == torch.float64 else torch.float32
            known = torch.empty(self._datapoints, width, dtype=dtype, device=flat.device)
            self._buffers[member] = known
        return known[:, :width]
