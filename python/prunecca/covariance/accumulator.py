"""CovarianceAccumulator: the running state of references, of candidates, and of pairs of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..storage.states import read_tensors, with_checksum, write_tensors
from . import cuda
from .accumulate import FEW_ROWS, OutOfRange, begin, check_members, estimate_shift, unshifted
from .centred import Centred
from .covariance import Covariance, Precision
from .moments import CrossMoments, Moments
from .state import State, by_width, outside_inference, portions
from .stored import check_accumulator, weighted
from .view import View

# Of more pairs than these, in one native call, tiles of rows and the blocks they add to would be far from each other.
_TOGETHER = 32
_NEIGHBOURS = 4  # references and candidates of one call then
_FACTS = {"counts": "count", "exact": "exact", "exponents": "exponent", "wide": "wide", "far": "far"}  # in a file


class CovarianceAccumulator:
    """The moments of references, of candidates, and of pairs of a reference and a candidate.

    Batches of one reference are added all at once (``add``), or the references' first and then the candidates' as they
    are produced (``add_references``, ``add_beside``). ``StreamingCovariance`` is the public face of it. Threads may share
    one: a lock lets each call have the state alone.

    Attributes:
        members: the moments of the references, then those of the candidates; empty before the first batch.
        cross: the products of pairs of members, by their positions.
        precision: ``"float32"`` or ``"float64"`` products.
        norms: whether what debiased CKA needs is kept.
    """

    def __init__(self, *, precision: Precision = "float32", norms: bool = False) -> None:
        if precision not in ("float32", "float64"):
            raise ValueError(f"precision is {precision!r}; expected 'float32' or 'float64'")
        self.precision: Precision = precision
        self.norms = norms
        self.members: list[Moments] = []
        self.cross: dict[tuple[int, int], CrossMoments] = {}
        self._lock = threading.RLock()
        self._past: dict[int, Moments] = {}  # the references without their last batch, where candidates need them
        self._lender: CovarianceAccumulator | None = None  # has the members' own products in place of this one

    @property
    def count(self) -> int | float:
        """Datapoints seen so far (times positions, for convolutional activations); with weights, the sum of them."""
        return self.members[0].count if self.members else 0

    @outside_inference
    def add(self, reference: View, candidates: Sequence[View]) -> None:
        """Add a batch of the reference and of every candidate.

        Raises:
            ValueError: on NaN or infinity, or shapes that do not match each other or the earlier batches; the state
                is then as it was before the call.
        """
        views = [reference, *candidates]
        with self._lock:
            if self.members and len(views) != len(self.members):
                known = len(self.members) - 1
                raise ValueError(
                    f"{reference.where}{len(candidates)} candidates were given; expected {known} as before"
                )
            state = self._settled()
            if reference.tensor.is_cuda:
                cuda.check_channels(views, [(0, k) for k in range(1, len(views))])
            if not state.members:
                members = [self._begin(view) for view in views]
                cross = {(0, k): CrossMoments.zeros(members[0], m, self.norms) for k, m in enumerate(members) if k}
                state = State(members, cross)
            elif self._should_recentre(state.members[0], reference):
                state = self._recentred(state, views)
            everyone = list(range(len(views)))
            pairs = [*((k, k) for k in everyone), *state.cross]
            self._take(state, everyone, lambda state: state.accumulate(everyone, views, pairs, everyone))

    @outside_inference
    def add_references(self, views: Sequence[View]) -> None:
        """Add a batch of the first members alone; the others must follow with ``add_beside`` and the same batch."""
        with self._lock:
            state = self._settled()
            if not state.members:
                state = State([self._begin(view) for view in views], {})
            positions = list(range(len(views)))
            far = []
            if self.members:
                far = [k for k in positions if self._should_recentre(state.members[k], views[k])]
                state = state.moved({k: estimate_shift(views[k]) for k in far})
            self._past = {}

            def add(state: State) -> None:
                past = {k: state.members[k].copy() for k in positions} if far else {}
                self._add_own(state, positions, views, positions)
                self._past = past

            self._take(state, positions, add)

    @outside_inference
    def add_beside(
        self, first: int, references: Sequence[View], views: Sequence[View], pairs: Sequence[tuple[int, int]]
    ) -> None:
        """Add a batch of further members, and of their products with the references.

        Args:
            first: the position of the first of them among the members; members are added in order.
            references: what ``add_references`` was last given.
            views: the activations, of the same datapoints.
            pairs: positions of a reference and of one of these members; the same with every batch.
        """
        with self._lock:
            known = len(self.members)
            if not len(references) <= first <= known:
                before = f"candidate {first - len(references) - 1}"
                where = f"{views[0].where}candidate {first - len(references)}"
                raise ValueError(f"{where} came before the reference or before {before}")
            state = State(list(self.members), dict(self.cross))
            positions = list(range(first, first + len(views)))
            together = [*range(len(references)), *positions]
            given = [*references, *views]
            if views[0].tensor.is_cuda:
                cuda.check_channels(given, [(together.index(i), together.index(j)) for i, j in pairs])
            if first == known:
                state.members += [self._begin(view) for view in views]
                zeros = {(i, j): CrossMoments.zeros(state.members[i], state.members[j], self.norms) for i, j in pairs}
                state.cross |= zeros
            elif self._past:
                self._recentre_beside(state, dict(zip(positions, views, strict=True)))
            own = [(k, k) for k in positions] if self._lender is None else []

            def add(state: State) -> None:
                if len(pairs) <= _TOGETHER:
                    state.accumulate(together, given, [*own, *pairs], positions)
                    return
                # First the own products: they tell what is not finite, and what must be taken in float64.
                exact = self._add_own(state, positions, views, together)
                for part in portions(pairs, _NEIGHBOURS):
                    for alike in by_width(part, state.members):
                        used = sorted({k for pair in alike for k in pair})
                        some = [given[together.index(k)] for k in used]
                        state.accumulate(used, some, alike, [], any(exact.get(k, False) for k in used))

            self._take(state, together, add)

    def add_reference(self, view: View) -> None:
        """``add_references`` of one."""
        self.add_references([view])

    def add_candidate(self, index: int, reference: View, view: View) -> None:
        """``add_beside`` of candidate 0, 1, ... of one reference."""
        self.add_beside(index + 1, [reference], [view], [(0, index + 1)])

    @outside_inference
    def merge(self, other: CovarianceAccumulator) -> None:
        """Add what ``other`` has seen, as if its batches had been given here; ``other`` is not changed.

        With d the difference of the shifts: ``products' = products + s d^T + d s^T + n d d^T``, so merging is
        associative up to float64 rounding, and threads, devices and ranks can each accumulate their share.
        """
        first, second = sorted(
            (self, other), key=id
        )  # always in this order, so that two merges cannot wait for each other
        with first._lock, second._lock:
            if not other.members:
                return
            if (self.precision, self.norms) != (other.precision, other.norms):
                raise ValueError("only accumulators made with the same precision and norms can be merged")
            check_members(other.members)
            if not self.members:
                self.members = [member.copy() for member in other.members]
                self.cross = {pair: cross.copy() for pair, cross in other.cross.items()}
                return
            if len(self.members) != len(other.members):
                raise ValueError(f"cannot merge {len(other.cross)} candidates into {len(self.cross)}")
            merged = State(self.members, self.cross).plus(State(other.members, other.cross))
            self.members, self.cross = merged.members, merged.cross

    def forget_rows(self) -> None:
        """Keep the shifts that the rows so far have set, but none of the rows.

        Accumulators with the same shifts turn a batch into the same bits, so that shares of a comparison add up to
        the whole to float64 rounding even with float32 products.
        """
        for member in self.members:
            member.clear()
        for cross in self.cross.values():
            cross.clear()

    @outside_inference
    def finalize(self, *, rescale: bool = False) -> list[Covariance]:
        """The covariance of every pair so far, in the order in which they were first added; accumulation may go on.

        Args:
            rescale: where a covariance leaves the range of float64, give that of a power of two times the
                representation: similarities are the same.

        Raises:
            ValueError: fewer than two datapoints, a candidate that lacks a batch, or a covariance that leaves the range
                of float64.
        """
        return [cov for _, cov in self.covariances(rescale=rescale)]

    @outside_inference
    def alone(self, *, rescale: bool = False) -> Covariance:
        """The covariance of the reference with itself; as ``finalize``."""
        with self._lock:
            return Centred(self.members[:1], rescale).alone(0)

    def covariances(self, *, rescale: bool = False) -> Iterator[tuple[tuple[int, int], Covariance]]:
        """As ``finalize``, one pair after the other, with the positions of its members."""
        with self._lock:
            cross, own = dict(self.cross), None
            if self._lender is not None:  # members without a pair may have taken no part
                own = {k: self._lender.members[k] for pair in cross for k in pair}
            centred = Centred(self.members, rescale, own)
        for pair, products in cross.items():
            yield pair, centred.pair(*pair, products)

    def borrower(self) -> CovarianceAccumulator:
        """An accumulator for other products of the same rows, given in any order; the members' own are those of this one."""
        new = CovarianceAccumulator(precision=self.precision, norms=self.norms)
        new._lender = self._lender or self
        return new

    def another_pass(self, pairs: Sequence[tuple[int, int]]) -> CovarianceAccumulator:
        """A borrower for other pairs of the same members, in another pass over the same rows."""
        new = self.borrower()
        new.members = [m.copy() for m in State((self._lender or self).members, {}).settled().members]
        new.cross = {(i, j): CrossMoments.zeros(new.members[i], new.members[j], self.norms) for i, j in pairs}
        new.forget_rows()
        return new

    def save(self, path: str | Path, meta: dict[str, Any]) -> None:
        """Write the state and ``meta`` to a safetensors file, with a checksum of all that it holds."""
        with self._lock:
            parts: list[Moments | CrossMoments] = [*self.members, *self.cross.values()]
            tensors = {
                f"{i}.{name}": t.contiguous() for i, part in enumerate(parts) for name, t in part.tensors().items()
            }
            check_members(self.members)
            facts = {name: [getattr(m, fact) for m in self.members] for name, fact in _FACTS.items()}
            state = {"precision": self.precision, "norms": self.norms, **meta, **facts, **weighted(*facts["counts"])}
            write_tensors(path, tensors, with_checksum(tensors, {"kind": "StreamingCovariance", **state}))

    @classmethod
    def load(cls, path: str | Path) -> tuple[CovarianceAccumulator, dict[str, Any]]:
        """What ``save`` wrote: the state, and everything else; checked against the checksum and against each other."""
        tensors, meta = read_tensors(path, "StreamingCovariance")
        check_accumulator(path, tensors, meta)
        new = cls(precision=meta["precision"], norms=meta["norms"])
        n = len(meta["counts"])
        parts: list[dict[str, Tensor]] = [{} for _ in range(2 * n - 1)]
        for full_name, tensor in tensors.items():
            number, _, name = full_name.partition(".")
            parts[int(number)][name] = tensor
        for k, part in enumerate(parts[:n]):
            facts = {fact: meta[name][k] for name, fact in _FACTS.items() if name in meta}
            new.members.append(Moments.from_tensors(part, new.precision, facts))
        new.cross = {(0, k): CrossMoments.from_tensors(part) for k, part in enumerate(parts[n:], 1)}
        return new, meta

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    def _begin(self, view: View) -> Moments:
        return begin(view, self.precision, self.norms)

    def _should_recentre(self, member: Moments, view: View) -> bool:
        """Whether this is the first batch to be taken in float32, after none or some few rows, whose mean may lie far away."""
        if self._lender is not None:
            return False
        if unshifted(member, view):
            return True
        if self.precision == "float64" or view.tensor.dtype == torch.float64 or member.exponent or member.wide:
            return False
        return member.exact and view.channels == member.channels and view.rows > FEW_ROWS

    def _settled(self) -> State:
        return State(self.members, self.cross).settled()

    def _recentred(self, state: State, views: list[View]) -> State:
        """The state with the shifts of a new batch, or as it is where the batch does not fit."""
        pairs = list(zip(views, state.members, strict=True))
        if any(view.channels != member.channels or not view.rows for view, member in pairs):
            return state
        far = [k for k, (view, member) in enumerate(pairs) if self._should_recentre(member, view)]
        return state.moved({k: estimate_shift(views[k]) for k in far})

    def _recentre_beside(self, state: State, views: Mapping[int, View]) -> None:
        """Move members to the means of a new batch whose references, already added, were moved so."""
        far = [k for k, view in views.items() if self._should_recentre(state.members[k], view)]
        shifts = {k: estimate_shift(views[k]) for k in far}
        for (i, j), products in state.cross.items():
            if j in shifts:
                past = self._past[i]
                state.cross[i, j] = products.moved(past, state.members[j], past.shift, shifts[j][0])
        for k, shift in shifts.items():
            state.members[k] = state.members[k].moved_to(*shift)

    def _add_own(
        self, state: State, positions: Sequence[int], views: Sequence[View], everyone: Sequence[int]
    ) -> dict[int, bool]:
        """Add members' rows and their own products; returns for which of them the products were taken in float64.

        Those that need float64 come first: what does not fit that either is told before anything was added.
        """
        exact: dict[int, bool] = {}
        for part in reversed(by_width([(k, k) for k in positions], state.members)):
            used = [k for k, _ in part]
            some = [views[positions.index(k)] for k in used]
            try:
                took = state.accumulate(used, some, part if self._lender is None else [], used)
            except OutOfRange as failure:
                raise OutOfRange(everyone.index(used[failure.position]), failure.exponent) from None
            exact |= dict.fromkeys(used, took)
        return exact

    def _take(self, state: State, positions: Sequence[int], add: Callable[[State], object]) -> None:
        """Let ``add`` add a batch to a state, and make that the state of this accumulator.

        Args:
            state: to start from; rescaled where the squares of the batch do not fit float64.
            positions: of the members that the views of the batch belong to.
            add: calls ``accumulate``.
        """
        while True:
            try:
                add(state)
            except OutOfRange as failure:
                state = state.rescaled(positions[failure.position], failure.exponent)
            else:
                break
        self.members, self.cross = state.members, state.cross
