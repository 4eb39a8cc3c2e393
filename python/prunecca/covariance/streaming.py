"""Covariances of activations, accumulated in one pass: ``StreamingCovariance`` -> ``Covariance``.

An activation is a matrix of datapoints by channels; a convolutional one of shape (N, C, H, W) is the
``(N * H * W, C)`` matrix of Raghu et al. 2017 and is read in place, whatever its memory layout. Nothing whose size
depends on the number of datapoints is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._arrays import as_tensor
from .accumulate import FEW_ROWS, accumulate, begin, check_members, estimate_mean
from .covariance import Covariance, Layout, Precision, load_tensors, save_tensors
from .moments import Gram, Representation


class StreamingCovariance:
    """Accumulates the covariance of a representation with one or more others, batch by batch.

    Products are taken in float32 over tiles of rows, shifted by the channel means of the first batch, and summed in
    float64: about 1e-8 relative error at float32 speed, whatever the means. Float64 input, or ``precision="float64"``,
    is accumulated in float64 throughout. Float16 and bfloat16 are widened exactly. Equal input, thread count
    (``torch.set_num_threads``) and device give equal bits.

    Args:
        precision: ``"float32"`` or ``"float64"`` products.
        norms: also keep what debiased CKA needs (see ``Covariance.norms``); costs one more pass over each tile.

    Example:
        >>> import torch
        >>> acc = StreamingCovariance()
        >>> for _ in range(3):
        ...     x = torch.randn(128, 16)
        ...     acc.update(x, x @ torch.randn(16, 8))
        >>> acc.finalize().xy.shape
        torch.Size([16, 8])
    """

    def __init__(self, *, precision: Precision = "float32", norms: bool = False) -> None:
        if precision not in ("float32", "float64"):
            raise ValueError(f"precision is {precision!r}; expected 'float32' or 'float64'")
        self.precision: Precision = precision
        self.norms = norms
        self._reference: Representation | None = None
        self._candidates: list[Representation] = []
        self._cross: list[Gram] = []
        self._past: Representation | None = None  # the reference without its last batch, where candidates need that
        self._as_list = False

    @property
    def count(self) -> int:
        """Datapoints seen so far (times positions, for convolutional activations)."""
        return self._reference.count if self._reference else 0

    def update(self, x: Any, y: Any = None, *, layout: Layout = "auto", where: str = "") -> None:
        """Add a batch of ``x`` with the same datapoints of ``y``: nothing, one array, or a list of candidates.

        Args:
            x, y: torch, NumPy, CuPy or numba arrays of shape (N, C), (N, C, H, W) or (N, C, L), any strides, of
                float16, bfloat16, float32 or float64.
            layout: ``"nlc"`` for arrays of shape (N, L, C); ``"auto"`` takes dimension 1 as the channels.
            where: put in front of error messages, to name the layer and the batch.

        Raises:
            ValueError: on NaN or infinity, on shapes that do not match each other or the earlier batches; the state
                is then as it was before the call. On a CUDA device nothing waits for the values: there, those that are
                not finite are reported by ``finalize``, ``merge`` and ``save``.
        """
        ys = y if isinstance(y, list | tuple) else [] if y is None else [y]
        if self._reference is None:
            self._as_list = isinstance(y, list | tuple)
        elif len(ys) != len(self._candidates) or isinstance(y, list | tuple) != self._as_list:
            raise ValueError(f"{_at(where)}{len(ys)} candidates were given; expected {len(self._candidates)} as before")
        reference, candidates, cross = self._begin(x, ys, layout, where)
        if self._reference is not None and self._should_recentre(reference, x, layout, where):
            self._recentre([x, *ys], layout, where)
            reference, candidates, cross = self._begin(x, ys, layout, where)
        pairs = [(0, 0), *((k, k) for k in range(1, len(ys) + 1)), *((0, k) for k in range(1, len(ys) + 1))]
        grams = [reference.gram, *(c.gram for c in candidates), *cross]
        _accumulate([reference, *candidates], [x, *ys], pairs, grams, {0, *range(1, len(ys) + 1)}, layout, where)
        self._reference, self._candidates, self._cross = reference, candidates, cross

    def update_reference(self, x: Any, *, layout: Layout = "auto", where: str = "") -> None:
        """Add a batch of ``x`` alone; each candidate must follow with ``update_candidate`` and the same ``x``."""
        self._as_list = True
        reference = self._reference or self._new(x, layout, where, "the reference")
        self._past = None
        if self._reference is not None and self._should_recentre(reference, x, layout, where):
            shift = estimate_mean(as_tensor(x, reference.name), _axis(x, layout, where), _at(where) + reference.name)
            pairs = zip(self._cross, self._candidates, strict=True)
            self._cross = [gram.moved(reference, c, shift, c.shift) for gram, c in pairs]
            self._reference = reference = reference.moved_to(shift)
            self._past = reference.copy()
        _accumulate([reference], [x], [(0, 0)], [reference.gram], {0}, layout, where)
        self._reference = reference

    def update_candidate(self, index: int, x: Any, y: Any, *, layout: Layout = "auto", where: str = "") -> None:
        """Add a batch of candidate ``index`` (0, 1, ... in order of first use) beside the reference's batch ``x``."""
        if self._reference is None or not 0 <= index <= len(self._candidates):
            raise ValueError(f"{_at(where)}candidate {index} came before the reference or before candidate {index - 1}")
        if index == len(self._candidates):
            candidate = self._new(y, layout, where, f"candidate {index}")
            cross = Gram.zeros(self._reference, candidate, self.norms)
        else:
            candidate, cross = self._candidates[index], self._cross[index]
            if self._past is not None and self._should_recentre(candidate, y, layout, where):
                shift = estimate_mean(
                    as_tensor(y, candidate.name), _axis(y, layout, where), _at(where) + candidate.name
                )
                cross = self._cross[index] = cross.moved(self._past, candidate, self._past.shift, shift)
                candidate = self._candidates[index] = candidate.moved_to(shift)
        _accumulate([self._reference, candidate], [x, y], [(1, 1), (0, 1)], [candidate.gram, cross], {1}, layout, where)
        if index == len(self._candidates):
            self._candidates.append(candidate)
            self._cross.append(cross)

    def merge(self, other: StreamingCovariance) -> None:
        """Add what ``other`` has seen, as if its batches had been given here; ``other`` is not changed.

        With d the difference of the shifts: ``gram' = gram + s d^T + d s^T + n d d^T``, so merging is associative up
        to float64 rounding, and threads, devices and ranks can each accumulate their share.
        """
        if other._reference is None:
            return
        if (self.precision, self.norms) != (other.precision, other.norms):
            raise ValueError("only accumulators made with the same precision and norms can be merged")
        check_members([other._reference, *other._candidates])
        if self._reference is None:
            self._reference = other._reference.copy()
            self._candidates = [c.copy() for c in other._candidates]
            self._cross = [g.copy() for g in other._cross]
            self._as_list = other._as_list
            return
        if len(self._candidates) != len(other._candidates):
            raise ValueError(f"cannot merge {len(other._candidates)} candidates into {len(self._candidates)}")
        moved = [other._reference.moved_to(self._reference.shift)]
        moved += [c.moved_to(m.shift) for c, m in zip(other._candidates, self._candidates, strict=True)]
        for k, gram in enumerate(other._cross):
            self._cross[k].add(gram.moved(other._reference, other._candidates[k], moved[0].shift, moved[k + 1].shift))
        for mine, theirs in zip([self._reference, *self._candidates], moved, strict=True):
            mine.add(theirs)

    def finalize(self) -> Covariance | list[Covariance]:
        """The covariance so far; a list of them when candidates were given as a list. Accumulation may go on.

        Without ``y``, the covariance of ``x`` with itself. Raises ``ValueError`` with fewer than two datapoints.
        """
        reference = self._reference
        if reference is None or reference.count < 2:
            raise ValueError(f"a covariance needs at least 2 datapoints, but {self.count} were given")
        check_members([reference, *self._candidates])
        own = reference.gram.centred(reference, reference)  # one tensor for all, so that it is decomposed once
        if not self._candidates and not self._as_list:
            return self._covariance(reference, own, reference, own, reference.gram)
        pairs = zip(self._candidates, self._cross, strict=True)
        covariances = [
            self._covariance(reference, own, candidate, candidate.gram.centred(candidate, candidate), cross)
            for candidate, cross in pairs
        ]
        return covariances if self._as_list else covariances[0]

    def save(self, path: str | Path) -> None:
        """Write the state to a safetensors file, to go on later or to merge elsewhere."""
        parts: list[Representation | Gram] = [
            *([self._reference] if self._reference else []),
            *self._candidates,
            *self._cross,
        ]
        tensors = {f"{i}.{name}": t.contiguous() for i, part in enumerate(parts) for name, t in part.tensors().items()}
        meta = {
            "kind": "StreamingCovariance",
            "precision": self.precision,
            "norms": self.norms,
            "as_list": self._as_list,
        }
        members = [r for r in parts if isinstance(r, Representation)]
        check_members(members)
        counts = [r.count for r in members]
        exact = [r.exact for r in members]
        save_tensors(path, tensors, {**meta, "counts": counts, "exact": exact})

    @classmethod
    def load(cls, path: str | Path) -> StreamingCovariance:
        """Read what ``save`` wrote; ``ValueError`` when the file holds something else."""
        tensors, meta = load_tensors(path, "StreamingCovariance")
        new = cls(precision=meta["precision"], norms=meta["norms"])
        new._as_list = meta["as_list"]
        n = len(meta["counts"])
        parts = [
            {name.split(".", 1)[1]: t for name, t in tensors.items() if name.startswith(f"{i}.")}
            for i in range(2 * n - 1)
        ]
        rows = zip(parts[:n], meta["counts"], meta["exact"], strict=True)
        whole = [Representation.from_tensors(p, count, exact, new.precision) for p, count, exact in rows]
        new._reference, new._candidates = (whole[0] if whole else None), whole[1:]
        new._cross = [Gram(**p) for p in parts[n:]]
        return new

    def _new(self, x: Any, layout: Layout, where: str, name: str) -> Representation:
        new = begin(as_tensor(x, name), self.precision, self.norms, _axis(x, layout, where), _at(where) + name)
        new.name = name  # later batches say where they are themselves
        return new

    def _begin(
        self, x: Any, ys: Sequence[Any], layout: Layout, where: str
    ) -> tuple[Representation, list[Representation], list[Gram]]:
        if self._reference is not None:
            return self._reference, self._candidates, self._cross
        reference = self._new(x, layout, where, "x")
        names = ["y"] if len(ys) == 1 and not self._as_list else [f"candidate {k}" for k in range(len(ys))]
        candidates = [self._new(y, layout, where, name) for y, name in zip(ys, names, strict=True)]
        return reference, candidates, [Gram.zeros(reference, c, self.norms) for c in candidates]

    def _should_recentre(self, member: Representation, x: Any, layout: Layout, where: str) -> bool:
        """Whether this is the first batch to be taken in float32, after none or some few rows, whose mean may lie far away."""
        channels = x.shape[_axis(x, layout, where)]
        rows = math.prod(x.shape) // max(1, channels)
        fits = channels == member.channels and rows > FEW_ROWS
        return fits and member.exact and self.precision == "float32"

    def _recentre(self, arrays: list[Any], layout: Layout, where: str) -> None:
        """Take the shifts from a new batch."""
        if self._reference is None:
            return
        old = [self._reference, *self._candidates]
        tensors = [as_tensor(a, m.name) for a, m in zip(arrays, old, strict=True)]
        axes = [_axis(a, layout, where) for a in arrays]
        if any(t.shape[a] != m.channels or not t.numel() for t, a, m in zip(tensors, axes, old, strict=True)):
            return
        shifts = [estimate_mean(t, a, _at(where) + m.name) for t, a, m in zip(tensors, axes, old, strict=True)]
        self._cross = [gram.moved(old[0], old[k + 1], shifts[0], shifts[k + 1]) for k, gram in enumerate(self._cross)]
        self._reference, *self._candidates = [m.moved_to(s) for m, s in zip(old, shifts, strict=True)]

    def _covariance(self, x: Representation, xx: Tensor, y: Representation, yy: Tensor, cross: Gram) -> Covariance:
        if x.count != y.count:
            raise ValueError(
                f"the reference has {x.count} datapoints but a candidate has {y.count}; each batch needs both"
            )
        xy = cross.centred(x, y)
        exact = x.exact and y.exact
        return Covariance(
            count=x.count,
            mean_x=x.mean(),
            mean_y=y.mean(),
            xx=xx,
            yy=yy,
            xy=xy,
            precision="float64" if exact else "float32",
            norms=torch.stack([x.gram.fourth(x, x), y.gram.fourth(y, y), cross.fourth(x, y)]) if self.norms else None,
        )


def _accumulate(
    members: list[Representation],
    arrays: list[Any],
    pairs: list[tuple[int, int]],
    grams: list[Gram],
    counted: set[int],
    layout: Layout,
    where: str,
) -> None:
    """Add the rows of ``arrays`` to ``members[counted]`` and to ``grams``, one per pair, in native code."""
    tensors = [as_tensor(a, m.name) for a, m in zip(arrays, members, strict=True)]
    accumulate(members, tensors, [_axis(a, layout, where) for a in arrays], pairs, grams, counted, _at(where))


def _axis(x: Any, layout: Layout, where: str) -> int:
    ndim = len(x.shape)
    if layout == "nlc" and ndim == 3:
        return 2
    if layout == "auto" and 2 <= ndim <= 4:
        return 1
    expected = "(N, L, C)" if layout == "nlc" else "(N, C), (N, C, L) or (N, C, H, W)"
    raise ValueError(f"{_at(where)}an activation has shape {tuple(x.shape)}; expected {expected}")


def _at(where: str) -> str:
    return f"{where}: " if where else ""
