"""CovarianceAccumulator: the running state of one reference and many candidates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..storage.states import read_tensors, write_tensors
from .accumulate import FEW_ROWS, accumulate, begin, check_members, estimate_mean
from .covariance import Covariance, Precision
from .memo import Memo
from .moments import CrossMoments, Moments
from .view import View


class CovarianceAccumulator:
    """The moments of a reference, of each candidate, and of the reference with each candidate.

    Batches are added all at once (``add``), or the reference's first and then each candidate's as it is produced
    (``add_reference``, ``add_candidate``). ``StreamingCovariance`` is the public face of it.

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
        self._past: Moments | None = None  # the reference without its last batch, where candidates need that

    @property
    def count(self) -> int:
        """Datapoints seen so far (times positions, for convolutional activations)."""
        return self.members[0].count if self.members else 0

    @torch.inference_mode(False)
    def add(self, reference: View, candidates: Sequence[View]) -> None:
        """Add a batch of the reference and of every candidate.

        Raises:
            ValueError: on NaN or infinity, or shapes that do not match each other or the earlier batches; the state
                is then as it was before the call.
        """
        views = [reference, *candidates]
        if self.members and len(views) != len(self.members):
            known = len(self.members) - 1
            raise ValueError(f"{reference.where}{len(candidates)} candidates were given; expected {known} as before")
        members, cross = self.members, self.cross
        if not members:
            members = [self._begin(view) for view in views]
            cross = [CrossMoments.zeros(members[0], member, self.norms) for member in members[1:]]
        elif self._should_recentre(members[0], reference):
            members, cross = self._recentred(views)
        everyone = range(len(views))
        pairs = [*((k, k) for k in everyone), *((0, k) for k in everyone[1:])]
        accumulate(members, views, pairs, [*(m.scatter for m in members), *cross], list(everyone))
        self.members, self.cross = members, cross

    @torch.inference_mode(False)
    def add_reference(self, view: View) -> None:
        """Add a batch of the reference alone; each candidate must follow with ``add_candidate`` and the same batch."""
        reference = self.members[0] if self.members else self._begin(view)
        self._past = None
        if self.members and self._should_recentre(reference, view):
            shift = estimate_mean(view)
            pairs = zip(self.cross, self.members[1:], strict=True)
            self.cross = [cross.moved(reference, m, shift, m.shift) for cross, m in pairs]
            self.members[0] = reference = reference.moved_to(shift)
            self._past = reference.copy()
        accumulate([reference], [view], [(0, 0)], [reference.scatter], [0])
        self.members[:1] = [reference]

    @torch.inference_mode(False)
    def add_candidate(self, index: int, reference: View, view: View) -> None:
        """Add a batch of one candidate beside the reference's batch of the same datapoints.

        Args:
            index: 0, 1, ... in the order in which candidates are first added.
            reference: what ``add_reference`` was last given.
            view: the candidate's activation.
        """
        known = len(self.members) - 1
        if not 0 <= index <= known:
            before = f"candidate {index - 1}"
            raise ValueError(f"{view.where}candidate {index} came before the reference or before {before}")
        if index == known:
            candidate = self._begin(view)
            cross = CrossMoments.zeros(self.members[0], candidate, self.norms)
        else:
            candidate, cross = self.members[index + 1], self.cross[index]
            if self._past is not None and self._should_recentre(candidate, view):
                shift = estimate_mean(view)
                cross = self.cross[index] = cross.moved(self._past, candidate, self._past.shift, shift)
                candidate = self.members[index + 1] = candidate.moved_to(shift)
        members = [self.members[0], candidate]
        accumulate(members, [reference, view], [(1, 1), (0, 1)], [candidate.scatter, cross], [1])
        if index == known:
            self.members.append(candidate)
            self.cross.append(cross)

    @torch.inference_mode(False)
    def merge(self, other: CovarianceAccumulator) -> None:
        """Add what ``other`` has seen, as if its batches had been given here; ``other`` is not changed.

        With d the difference of the shifts: ``products' = products + s d^T + d s^T + n d d^T``, so merging is
        associative up to float64 rounding, and threads, devices and ranks can each accumulate their share.
        """
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
        moved = [new.moved_to(own.shift) for new, own in zip(other.members, self.members, strict=True)]
        for k, cross in enumerate(other.cross):
            shifts = moved[0].shift, moved[k + 1].shift
            self.cross[k].add(cross.moved(other.members[0], other.members[k + 1], *shifts))
        for own, new in zip(self.members, moved, strict=True):
            own.add(new)

    def forget_rows(self) -> None:
        """Keep the shifts that the rows so far have set, but none of the rows.

        Accumulators with the same shifts turn a batch into the same bits, so that shares of a comparison add up to
        the whole to float64 rounding even with float32 products.
        """
        for member in self.members:
            member.clear()
        for cross in self.cross:
            cross.clear()

    @torch.inference_mode(False)
    def finalize(self) -> list[Covariance]:
        """The covariance of the reference with each candidate so far; accumulation may go on.

        Raises:
            ValueError: fewer than two datapoints, or a candidate that lacks a batch.
        """
        self._check_count()
        reference, *candidates = self.members
        xx = reference.scatter.centred(reference, reference)
        memo: Memo[Any] = Memo(xx)  # one for all, so that the reference is decomposed once
        return [
            self._covariance(candidate, xx, candidate.scatter.centred(candidate, candidate), cross, memo)
            for candidate, cross in zip(candidates, self.cross, strict=True)
        ]

    @torch.inference_mode(False)
    def alone(self) -> Covariance:
        """The covariance of the reference with itself; raises as ``finalize``."""
        self._check_count()
        reference = self.members[0]
        xx = reference.scatter.centred(reference, reference)
        return self._covariance(reference, xx, xx, reference.scatter, Memo(xx))

    def save(self, path: str | Path, meta: dict[str, Any]) -> None:
        """Write the state and ``meta`` to a safetensors file."""
        parts: list[Moments | CrossMoments] = [*self.members, *self.cross]
        tensors = {f"{i}.{name}": t.contiguous() for i, part in enumerate(parts) for name, t in part.tensors().items()}
        check_members(self.members)
        counts, exact = [m.count for m in self.members], [m.exact for m in self.members]
        state = {"precision": self.precision, "norms": self.norms, **meta, "counts": counts, "exact": exact}
        write_tensors(path, tensors, {"kind": "StreamingCovariance", **state})

    @classmethod
    def load(cls, path: str | Path) -> tuple[CovarianceAccumulator, dict[str, Any]]:
        """What ``save`` wrote: the state, and everything else."""
        tensors, meta = read_tensors(path, "StreamingCovariance")
        new = cls(precision=meta["precision"], norms=meta["norms"])
        n = len(meta["counts"])
        parts = [
            {name.split(".", 1)[1]: t for name, t in tensors.items() if name.startswith(f"{i}.")}
            for i in range(2 * n - 1)
        ]
        rows = zip(parts[:n], meta["counts"], meta["exact"], strict=True)
        new.members = [Moments.from_tensors(part, count, exact, new.precision) for part, count, exact in rows]
        new.cross = [CrossMoments.from_tensors(part) for part in parts[n:]]
        return new, meta

    def _begin(self, view: View) -> Moments:
        return begin(view, self.precision, self.norms)

    def _should_recentre(self, member: Moments, view: View) -> bool:
        """Whether this is the first batch to be taken in float32, after none or some few rows, whose mean may lie far away."""
        few_rows = member.exact and self.precision == "float32"
        return few_rows and view.channels == member.channels and view.rows > FEW_ROWS

    def _recentred(self, views: list[View]) -> tuple[list[Moments], list[CrossMoments]]:
        """The state with the shifts of a new batch, or as it is where the batch does not fit."""
        old = self.members
        if any(v.channels != m.channels or not v.rows for v, m in zip(views, old, strict=True)):
            return self.members, self.cross
        shifts = [estimate_mean(view) for view in views]
        cross = [c.moved(old[0], m, shifts[0], s) for c, m, s in zip(self.cross, old[1:], shifts[1:], strict=True)]
        return [m.moved_to(s) for m, s in zip(old, shifts, strict=True)], cross

    def _check_count(self) -> None:
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 datapoints, but {self.count} were given")
        check_members(self.members)

    def _covariance(
        self, candidate: Moments, xx: Tensor, yy: Tensor, cross: CrossMoments, memo: Memo[Any]
    ) -> Covariance:
        x, y = self.members[0], candidate
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
            memo_x=memo,
        )
