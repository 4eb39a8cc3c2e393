"""What takes the batches of layers that have the same rows: the products of them, what shuffled rows give, a sample of rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..covariance.accumulator import CovarianceAccumulator
from ..covariance.centred import Centred
from ..covariance.covariance import Covariance, Precision
from ..covariance.distributed import gather, merge_over_ranks
from ..covariance.state import State, aligned, combined
from ..covariance.view import View
from ..geometry.reservoir import Choice, Reservoir
from ..seeds import generator


@dataclass(frozen=True)
class Settings:
    """What every team of a comparison is made with.

    Attributes:
        precision: of the products.
        norms: whether metrics need them.
        chance: whether products of shuffled rows are kept beside them.
        sample: rows of a sample for metrics that need rows; 0 for none.
        groups: of batches, whose products are kept apart to draw from; 0 for none.
        rank: of this process, whose random numbers are its own.
    """

    precision: Precision = "float32"
    norms: bool = False
    chance: bool = False
    sample: int = 0
    groups: int = 0
    rank: int = 0


@dataclass(frozen=True)
class Estimate:
    """A value that batches were enough for.

    Attributes:
        value: of the metric.
        batch: datapoints of a batch, the most.
        count: datapoints.
        channels: of both representations.
    """

    value: float
    batch: int
    count: int
    channels: tuple[int, int]


@dataclass(frozen=True)
class Finding:
    """What a comparison has found of two representations.

    Attributes:
        covariance: of their rows; of a power of two times them where that of the rows leaves the range of float64.
        plain: of the rows themselves; only if it was asked for.
        chance: of the rows of the one with the rows of other datapoints of the other; only if it was asked for.
        sample: (N, Cx) and (N, Cy) of their rows; only if it was asked for.
        estimate: in place of all of these, of a metric that is estimated from batches.
    """

    covariance: Covariance | None = None
    plain: Covariance | None = None
    chance: Covariance | None = None
    sample: tuple[Tensor, Tensor] | None = None
    estimate: Estimate | None = None


_MOST_ALONE = 0.1  # of the rows: they add as much of their own similarity to the chance level's cross covariance


@dataclass
class Team:
    """Takes each batch as a ``CovarianceAccumulator`` does: the references first, then each candidate's members.

    Attributes:
        settings: what it was made with.
        products: of the rows as they are; where groups are kept, only at the end.
        chance: products of the references' rows with those of other datapoints; None unless asked for.
        sample: of rows, by the positions of the members; None unless asked for.
    """

    settings: Settings
    products: CovarianceAccumulator = field(init=False)
    chance: CovarianceAccumulator | None = None
    sample: Reservoir | None = None

    def __post_init__(self) -> None:
        settings = self.settings
        self.products = CovarianceAccumulator(precision=settings.precision, norms=settings.norms)
        self._parts = [
            CovarianceAccumulator(precision=settings.precision, norms=settings.norms) for _ in range(settings.groups)
        ]
        self._batches = 0
        if settings.chance:
            self.chance = self.products.borrower()
        self._begin_sample()
        self._random = generator(0, "chance", settings.rank)
        self._choice: Choice | None = None
        self._chosen: list[View] = []  # rows of the references that count
        self._rows, self._alone = 0, 0  # for the chance level: all, and of datapoints alone in their batch

    def add_references(self, views: Sequence[View]) -> None:
        """As ``CovarianceAccumulator.add_references``."""
        self._current().add_references(views)
        if self.chance is not None:
            self._chosen = [view.chosen() for view in views]
            self.chance.add_references(self._chosen)
            self._rows += views[0].rows
            self._alone += views[0].rows if views[0].tensor.shape[0] < 2 else 0
        if self.settings.sample and self.sample is not None:
            self._choice = self.sample.choose(views[0].rows)
            self._take(0, views)

    def add_beside(
        self, first: int, references: Sequence[View], views: Sequence[View], pairs: Sequence[tuple[int, int]]
    ) -> None:
        """As ``CovarianceAccumulator.add_beside``."""
        self._current().add_beside(first, references, views, pairs)
        if self.chance is not None:
            self.chance.add_beside(first, self._chosen, [view.shuffled(self._random) for view in views], pairs)
        self._take(first, views)

    def end_of_batch(self) -> None:
        """The next batch belongs to the next group."""
        self._batches += 1

    def forget_rows(self) -> None:
        """Keep the shifts alone, of a first batch that is another rank's share."""
        for accumulator in self._accumulators():
            accumulator.forget_rows()
        self._rows, self._alone = 0, 0
        self._begin_sample()

    def another_pass(self, pairs: Sequence[tuple[int, int]]) -> Team:
        """A team for other pairs of the same members; the sample stays, for it holds all members."""
        new = Team(replace(self.settings, sample=0))
        new.sample = self.sample
        new.products = self.products.another_pass(pairs)
        new.chance = None if self.chance is None else self.chance.another_pass(pairs)
        return new

    def merge_over_ranks(self, device: torch.device) -> None:
        """Bring the shares of all ranks together, on every rank; a collective call."""
        for accumulator in self._accumulators():
            merge_over_ranks(accumulator, device)
        if self.settings.chance:
            self._rows, self._alone = (sum(counts) for counts in zip(*gather((self._rows, self._alone)), strict=True))
        if self.settings.sample:
            first, *others = [sample for sample in gather(self.sample) if sample.seen] or [self.sample]
            for other in others:
                first.merge(other)
            self.sample = first

    def findings(self, plain: bool) -> Iterator[tuple[tuple[int, int], Finding]]:
        """What was found of each pair, with the positions of its members.

        Args:
            plain: whether ``Finding.plain`` is wanted.

        Raises:
            ValueError: batches of single datapoints, which have no other for the chance level.
        """
        self._join()
        if self._alone > _MOST_ALONE * self._rows:
            raise ValueError(
                f"chance='permutation' puts rows beside those of another datapoint of the same batch, and {self._alone} of "
                f"{self._rows} rows are of a datapoint that is alone in its batch; expected larger batches"
            )
        alike = self.products.covariances(rescale=True)
        units = self.products.covariances() if plain else itertools.repeat((None, None))
        others = itertools.repeat((None, None)) if self.chance is None else self.chance.covariances(rescale=True)
        for ((i, j), cov), (_, own), (_, chance) in zip(alike, units, others, strict=False):
            sample = None if self.sample is None else (self.sample.rows(i), self.sample.rows(j))
            yield (i, j), Finding(cov, own, chance, sample)

    def groups(self) -> list[State]:
        """The groups of batches that have rows, about the same shifts."""
        return aligned([State(part.members, part.cross) for part in self._parts if part.count])

    def resampled(self, groups: Sequence[State], times: Sequence[int]) -> Iterator[Covariance]:
        """The covariances of all pairs, of each group's rows so many times.

        Args:
            groups: as ``groups`` gives them.
            times: how often each.
        """
        state = combined(groups, times)
        centred = Centred(state.members, rescale=True)
        for (i, j), products in state.cross.items():
            yield centred.pair(i, j, products)

    def _current(self) -> CovarianceAccumulator:
        return self._parts[self._batches % len(self._parts)] if self._parts else self.products

    def _join(self) -> None:
        """Make the products of all groups those of the team."""
        if not self.products.count:
            for part in self._parts:
                self.products.merge(part)

    def _accumulators(self) -> Iterable[CovarianceAccumulator]:
        return [*(self._parts or [self.products]), *([] if self.chance is None else [self.chance])]

    def _begin_sample(self) -> None:
        if self.settings.sample:
            self.sample = Reservoir(self.settings.sample, seed=self.settings.rank)

    def _take(self, first: int, views: Sequence[View]) -> None:
        if self._choice is not None and self.sample is not None:
            for position, view in enumerate(views, first):
                self.sample.take(position, view, self._choice)
