"""Reservoir: a uniform subsample of the rows of one pass, the same for every representation of them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..covariance.view import View
from ..seeds import derive


@dataclass(frozen=True)
class Choice:
    """What a reservoir keeps of one batch.

    Attributes:
        positions: of the rows of the batch that are kept, ascending.
        slots: where they go, in the place of rows that are dropped.
        rows: of the batch.
    """

    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    rows: int


class Reservoir:
    """A uniform subsample of rows that come in batches, shared by several representations of them.

    Every row draws a random key, and the rows with the smallest keys are kept: each set of ``size`` rows is as likely as
    any other (Efraimidis and Spirakis 2006, with equal weights). It depends on the seed and on the number of each row,
    but not on how rows are cut into batches. Reservoirs of parts of the data merge into one of all.

    Attributes:
        size: rows that are kept at most.
        seen: rows that came by.
        positions: (kept,) int64; which of the rows seen each slot holds.

    Example:
        >>> import torch
        >>> from prunecca.covariance.view import View
        >>> from prunecca.geometry.reservoir import Reservoir
        >>> reservoir = Reservoir(3, seed=0)
        >>> for batch in torch.arange(20.0).reshape(4, 5, 1):
        ...     choice = reservoir.choose(5)
        ...     reservoir.take("x", View.of(batch, "x"), choice)
        ...     reservoir.take("y", View.of(-batch, "y"), choice)
        >>> bool((reservoir.rows("x") == -reservoir.rows("y")).all()), len(reservoir.rows("x"))
        (True, 3)
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        if size < 1:
            raise ValueError(f"a reservoir of {size} rows was asked for; expected at least 1")
        self.size, self.seen = size, 0
        self.positions: NDArray[np.int64] = np.empty(0, np.int64)
        self._keys: NDArray[np.float64] = np.empty(0)
        self._random = np.random.default_rng(derive(seed, "reservoir"))
        self._kept: dict[Hashable, Tensor] = {}
        self._taken: dict[Hashable, int] = {}

    def choose(self, rows: int) -> Choice:
        """Draw for the next batch; every representation of it must then be taken by this choice.

        Args:
            rows: datapoints times positions of the batch.
        """
        drawn = self._random.random(rows)
        worst = self._keys.max() if len(self._keys) == self.size else np.inf
        candidates = np.flatnonzero(drawn < worst)
        kept = len(self._keys)
        keys = np.concatenate([self._keys, drawn[candidates]])
        chosen = np.arange(len(keys))
        if len(keys) > self.size:
            chosen = np.sort(np.argpartition(keys, self.size - 1)[: self.size])
        new = chosen[chosen >= kept]
        free = np.setdiff1d(np.arange(kept), chosen)
        slots = np.concatenate([free, np.arange(kept, kept + len(new) - len(free))]).astype(np.int64)
        positions = candidates[new - kept].astype(np.int64)
        self._keys = _placed(self._keys, slots, drawn[positions])
        self.positions = _placed(self.positions, slots, self.seen + positions)
        self.seen += rows
        return Choice(positions, slots, rows)

    def take(self, name: Hashable, view: View, choice: Choice) -> None:
        """Keep the chosen rows of one representation of the batch.

        Args:
            name: of the representation.
            view: the batch; only the chosen rows are read.
            choice: what ``choose`` gave for this batch.

        Raises:
            ValueError: a batch with another number of rows, or with other channels than before.
        """
        if view.rows != choice.rows:
            raise ValueError(
                f"{view.where}{view.name} has {view.rows} rows; expected {choice.rows}, as were chosen from"
            )
        self._taken[name] = self._taken.get(name, 0) + choice.rows
        if not len(choice.slots):
            return
        with torch.inference_mode(False), torch.no_grad():  # what is made inside could not be written to later
            new = rows_at(view, choice.positions)
            kept = self._kept.get(name, new[:0])
            if kept.shape[1] != new.shape[1]:
                raise ValueError(
                    f"{view.where}{view.name} has {new.shape[1]} channels; expected {kept.shape[1]} as before"
                )
            within = int((choice.slots < len(kept)).sum())  # the slots of the rest follow those there are
            kept.index_copy_(0, torch.from_numpy(choice.slots[:within]).to(new.device), new[:within])
            self._kept[name] = torch.cat([kept, new[within:]]) if within < len(new) else kept

    def rows(self, name: Hashable) -> Tensor:
        """(kept, C): the rows of a representation; row by row the same datapoints for all of them.

        Raises:
            ValueError: a representation that lacks a batch.
        """
        if self._taken.get(name, 0) != self.seen or name not in self._kept:
            raise ValueError(
                f"the sample of {name!r} has seen {self._taken.get(name, 0)} rows of {self.seen}; each batch needs it"
            )
        return self._kept[name]

    def merge(self, other: Reservoir) -> None:
        """Add what ``other`` saw, as rows that follow those seen here; it must have been made with another seed.

        Each kept row has its key, so that both count by the rows that they saw.

        Raises:
            ValueError: another size, or other representations.
        """
        if other.size != self.size or (self.seen and other.seen and set(self._kept) != set(other._kept)):
            raise ValueError("only reservoirs of one size and of the same representations can be merged")
        keys = np.concatenate([self._keys, other._keys])
        chosen = np.sort(np.argsort(keys, kind="stable")[: self.size])
        index = torch.from_numpy(chosen)
        for name in other._kept.keys() | self._kept.keys():
            parts = [own.rows(name) for own in (self, other) if own.seen]
            together = torch.cat([part.to(parts[0].device) for part in parts])
            self._kept[name] = together[index.to(together.device)]
            self._taken[name] = self.seen + other.seen
        self._keys = keys[chosen]
        self.positions = np.concatenate([self.positions, self.seen + other.positions])[chosen]
        self.seen += other.seen


def rows_at(view: View, positions: NDArray[np.int64]) -> Tensor:
    """(len(positions), C): those rows of an activation, copied; no others are read."""
    numbers = torch.from_numpy(positions)
    if view.kept is not None:
        numbers = view.kept[numbers]
    return view.gathered(numbers.to(view.tensor.device)).tensor


def _placed(old: NDArray[Any], slots: NDArray[np.int64], new: NDArray[Any]) -> NDArray[Any]:
    """``old`` with the values of the slots, those behind its end included."""
    out: NDArray[Any] = np.resize(old, max(len(old), int(slots.max(initial=-1)) + 1)) if len(slots) else old.copy()
    out[slots] = new
    return out
