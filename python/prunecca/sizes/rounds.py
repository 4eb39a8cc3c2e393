"""Rounds over the data: features of all datapoints at a time, gathered batch by batch within a budget of memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..covariance.covariance import Precision
from ..seeds import generator
from .dual import DualAccumulator

_ALIKE = 1e-2  # of the standard deviation of what marks datapoints; sums in another order differ by far less


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

    Every datapoint has a mark, a product of its features with random numbers, by which later rounds are held against the
    first: datapoints in another order would pair the features of one with those of another.

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
        >>> len(filling.rounds), abs(linear_cka(filling.accumulator.finalize()) - linear_cka(x, y, layout="flat")) < 1e-6
        (5, True)
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
        self._weights: dict[int, Tensor] = {}
        self._marks: list[Tensor | None] = [None] * len(self._features)  # of the first round
        self._seen: list[Tensor | None] = [None] * len(self._features)  # of this one
        self._batches: list[list[tuple[int, str]]] = [[] for _ in self._features]  # first datapoint, and where that is

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
        if len(self.rounds) > 1:
            self._mark(member, flat, start)
        self._batches[member].append((start, where))
        self._filled[member] = start + len(flat)

    def end_round(self) -> None:
        """Add the features of this round, once all datapoints have come.

        Raises:
            ValueError: fewer datapoints came than were said, others than in the first round or in another order, or features
                that are not finite.
        """
        for member, (filled, wanted) in enumerate(zip(self._filled, self.rounds[self._round], strict=True)):
            if filled != self._datapoints:
                raise ValueError(
                    f"a round has {filled} datapoints; expected {self._datapoints}, the same in each round"
                )
            self._check_order(member)
            buffer = self._buffers[member]
            if buffer is not None and wanted.stop > wanted.start:
                block = buffer[:, : wanted.stop - wanted.start]
                self._check_finite(member, block)
                self.accumulator.add(member, block)
        self._filled = [0] * len(self._features)
        self._batches = [[] for _ in self._features]
        self._round += 1

    def _buffer(self, member: int, flat: Tensor, width: int) -> Tensor:
        """Room for the features of a round, kept for the next: the first round is the widest."""
        known = self._buffers[member]
        if known is None:
            dtype = torch.float64 if flat.dtype == torch.float64 else torch.float32
            device = next((other.device for other in self._buffers if other is not None), flat.device)
            known = torch.empty(self._datapoints, width, dtype=dtype, device=device)
            self._buffers[member] = known
        return known[:, :width]

    def _mark(self, member: int, flat: Tensor, start: int) -> None:
        count = self._features[member]
        weights = self._weights.get(count)
        if weights is None:
            weights = self._weights[count] = torch.randn(count, generator=generator(0, "marks"))
        seen = self._seen[member]
        if seen is None:
            seen = self._seen[member] = torch.empty(self._datapoints, device=flat.device)
        seen[start : start + len(flat)] = flat.float() @ weights.to(flat.device)

    def _check_order(self, member: int) -> None:
        """Hold the datapoints of a round against those of the first."""
        seen, first = self._seen[member], self._marks[member]
        self._seen[member] = None
        if first is None or seen is None:
            self._marks[member] = seen
            return
        tolerance = _ALIKE * first.std(correction=0) + 1e-5 * first.abs().amax()
        if bool(((seen - first).abs() > tolerance).any()):
            raise ValueError(
                "the loader gave other data in a later pass than in the first, or the same in another order; expected the "
                "same every time: do not shuffle, draw a random part of the data or augment it, or give a larger budget, "
                "so that one pass is enough"
            )

    def _check_finite(self, member: int, block: Tensor) -> None:
        finite = block.isfinite().all(1)
        if not bool(finite.all()):
            bad = int((~finite).nonzero()[0])
            batches = self._batches[member]
            where = batches[bisect_right(batches, bad, key=lambda batch: batch[0]) - 1][1]
            channel = self.rounds[self._round][member].start + int((~block[bad].isfinite()).nonzero()[0])
            raise ValueError(f"{where}the output holds NaN or infinity, first in channel {channel}")
