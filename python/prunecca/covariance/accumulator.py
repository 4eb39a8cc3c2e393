"""CovarianceAccumulator: the running state of one reference and many candidates."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..storage.states import read_tensors, with_checksum, write_tensors
from .accumulate import FEW_ROWS, OutOfRange, accumulate, begin, check_members, estimate_shift, unshifted
from .covariance import Covariance, Precision
from .memo import Memo
from .moments import CrossMoments, Moments
from .state import State
from .stored import check_accumulator, weighted
from .view import View

_SMALLEST = 2.0**-960  # sums of squares from which on float64 holds all digits of the small ones beside them
_FACTS = {"counts": "count", "exact": "exact", "exponents": "exponent", "wide": "wide", "far": "far"}  # in a file
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _outside_inference(method: _Method) -> _Method:
    """Under ``torch.inference_mode()`` the method runs outside of it: a state that is made inside cannot be added to later."""

    @functools.wraps(method)
    def outside(*arguments: Any, **options: Any) -> Any:
        if not torch.is_inference_mode_enabled():  # the context takes 4 us, the question none
            return method(*arguments, **options)
        with torch.inference_mode(False):
            return method(*arguments, **options)

    return cast(_Method, outside)


class CovarianceAccumulator:
    """The moments of a reference, of each candidate, and of the reference with each candidate.

    Batches are added all at once (``add``), or the reference's first and then each candidate's as it is produced
    (``add_reference``, ``add_candidate``). ``StreamingCovariance`` is the public face of it. Threads may share one: a
    lock lets each call have the state alone.

    Attributes:
        members: the moments of the reference, then those of each candidate; empty before the first batch.
        cross: the products of the reference with each candidate.
        precision: ``"float32"`` or ``"float64"`` products.
        norms: whether what debiased CKA needs is kept.
    """

    def __init__(self, *, precision: Precision = "float32", norms: bool = False) -> None:
        if precision not in ("float32", "float64"):
            raise ValueError(f"precision is {precision!r}; expected 'float32' or 'float64'")
        self.precision: Precision = precision
        self.norms = norms
        self.members: list[Moments] = []
        self.cross: list[CrossMoments] = []
        self._lock = threading.RLock()
        self._past: Moments | None = None  # the reference without its last batch, where candidates need that

    @property
    def count(self) -> int | float:
        """Datapoints seen so far (times positions, for convolutional activations); with weights, the sum of them."""
        return self.members[0].count if self.members else 0

    @_outside_inference
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
            if not state.members:
                members = [self._begin(view) for view in views]
                state = State(members, [CrossMoments.zeros(members[0], m, self.norms) for m in members[1:]])
            elif self._should_recentre(state.members[0], reference):
                state = self._recentred(state, views)
            everyone = range(len(views))
            pairs = [*((k, k) for k in everyone), *((0, k) for k in everyone[1:])]
            self._take(
                state,
                everyone,
                lambda state: accumulate(
                    state.members, views, pairs, [*(m.scatter for m in state.members), *state.cross], list(everyone)
                ),
            )

    @_outside_inference
    def add_reference(self, view: View) -> None:
        """Add a batch of the reference alone; each candidate must follow with ``add_candidate`` and the same batch."""
        with self._lock:
            state = self._settled()
            if not state.members:
                state = State([self._begin(view)], [])
            recentred = bool(self.members) and self._should_recentre(state.members[0], view)
            if recentred:
                state = state.moved({0: estimate_shift(view)})
            self._past = None

            def add(state: State) -> None:
                past = state.members[0].copy() if recentred else None
                accumulate(state.members[:1], [view], [(0, 0)], [state.members[0].scatter], [0])
                self._past = past

            self._take(state, [0], add)

    @_outside_inference
    def add_candidate(self, index: int, reference: View, view: View) -> None:
        """Add a batch of one candidate beside the reference's batch of the same datapoints.

        Args:
            index: 0, 1, ... in the order in which candidates are first added.
            reference: what ``add_reference`` was last given.
            view: the candidate's activation.
        """
        with self._lock:
            known = len(self.members) - 1
            if not 0 <= index <= known:
                before = f"candidate {index - 1}"
                raise ValueError(f"{view.where}candidate {index} came before the reference or before {before}")
            state = State(list(self.members), list(self.cross))
            if index == known:
                state.members.append(self._begin(view))
                state.cross.append(CrossMoments.zeros(state.members[0], state.members[-1], self.norms))
            elif self._past is not None and self._should_recentre(state.members[index + 1], view):
                candidate, cross = state.members[index + 1], state.cross[index]
                shift, wide = estimate_shift(view)
                state.cross[index] = cross.moved(self._past, candidate, self._past.shift, shift)
                state.members[index + 1] = candidate.moved_to(shift, wide)

            def add(state: State) -> None:
                members = [state.members[0], state.members[index + 1]]
                cross = [members[1].scatter, state.cross[index]]
                accumulate(members, [reference, view], [(1, 1), (0, 1)], cross, [1])

            self._take(state, [0, index + 1], add)

    @_outside_inference
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
                self.cross = [cross.copy() for cross in other.cross]
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
        for cross in self.cross:
            cross.clear()

    @_outside_inference
    def finalize(self, *, rescale: bool = False) -> list[Covariance]:
        """The covariance of the reference with each candidate so far; accumulation may go on.

        Args:
            rescale: where a covariance leaves the range of float64, give that of a power of two times the
                representation: similarities are the same.

        Raises:
            ValueError: fewer than two datapoints, a candidate that lacks a batch, or a covariance that leaves the range
                of float64.
        """
        with self._lock:
            self._check_count()
            reference, *candidates = [self._in_units(member, rescale) for member in self.members]
            xx = reference.scatter.centred(reference, reference)
            memo = Memo(xx)  # one for all, so that the reference is decomposed once
            covariances = []
            for kept, candidate, cross in zip(self.members[1:], candidates, self.cross, strict=True):
                units = cross.rescaled(self.members[0], kept, reference.exponent, candidate.exponent)
                yy = candidate.scatter.centred(candidate, candidate)
                covariances.append(self._covariance([reference, candidate], xx, yy, units, memo))
            return covariances

    @_outside_inference
    def alone(self, *, rescale: bool = False) -> Covariance:
        """The covariance of the reference with itself; as ``finalize``."""
        with self._lock:
            self._check_count()
            reference = self._in_units(self.members[0], rescale)
            xx = reference.scatter.centred(reference, reference)
            return self._covariance([reference, reference], xx, xx, reference.scatter, Memo(xx))

    def save(self, path: str | Path, meta: dict[str, Any]) -> None:
        """Write the state and ``meta`` to a safetensors file, with a checksum of all that it holds."""
        with self._lock:
            parts: list[Moments | CrossMoments] = [*self.members, *self.cross]
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
        new.cross = [CrossMoments.from_tensors(part) for part in parts[n:]]
        return new, meta

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    def _begin(self, view: View) -> Moments:
        return begin(view, self.precision, self.norms)

    def _should_recentre(self, member: Moments, view: View) -> bool:
        """Whether this is the first batch to be taken in float32, after none or some few rows, whose mean may lie far away."""
        if unshifted(member, view):
            return True
        if self.precision == "float64" or view.tensor.dtype == torch.float64 or member.exponent:
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

    def _take(self, state: State, positions: Sequence[int], add: Callable[[State], None]) -> None:
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

    def _in_units(self, member: Moments, rescale: bool) -> Moments:
        """The member as its activations are, not multiplied by any power of two; or as it is where that does not fit."""
        if member.exponent == 0:
            return member
        plain = member.rescaled(0)
        sizes = [
            plain.scatter.products.diagonal().max(),
            *([] if plain.scatter.norms is None else plain.scatter.norms[:1]),
        ]
        if all(_SMALLEST < float(size) < math.inf for size in sizes):
            return plain
        if rescale:
            return member
        raise ValueError(
            f"the activations are about 2^{-member.exponent}, so that their covariance leaves the range of float64; "
            "scale them, or give them to a metric directly"
        )

    def _check_count(self) -> None:
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 datapoints, but {self.count} were given")
        check_members(self.members)

    def _covariance(self, sides: list[Moments], xx: Tensor, yy: Tensor, cross: CrossMoments, memo: Memo) -> Covariance:
        x, y = sides
        if x.count != y.count:
            raise ValueError(
                f"the reference has {x.count} datapoints but a candidate has {y.count}; each batch needs both"
            )
        norms = (
            torch.stack([x.scatter.fourth(x, x), y.scatter.fourth(y, y), cross.fourth(x, y)]) if self.norms else None
        )
        return Covariance(
            count=x.count,
            mean_x=x.mean(),
            mean_y=y.mean(),
            xx=xx,
            yy=yy,
            xy=cross.centred(x, y),
            precision="float64" if x.exact and y.exact else "float32",
            norms=norms,
            error_x=x.relative_error(),
            error_y=y.relative_error(),
            memo_x=memo,
        )
