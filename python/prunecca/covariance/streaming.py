"""StreamingCovariance: the public face of the accumulator, for one pair of activations or for a list of candidates.

An activation is a matrix of datapoints by channels; a convolutional one of shape (N, C, H, W) is the
(N * H * W, C) matrix of Raghu et al. 2017 and is read in place, whatever its memory layout. Nothing whose size
depends on the number of datapoints is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .accumulator import CovarianceAccumulator
from .covariance import Covariance, Layout, Precision
from .view import View


class StreamingCovariance:
    """Accumulates the covariance of a representation with one or more others, batch by batch.

    Products are taken in float32 over tiles of rows, shifted by the channel means of the first batch, and summed in
    float64: about 1e-8 relative error at float32 speed, whatever the means. Float64 input, or ``precision="float64"``,
    is accumulated in float64 throughout, and so are activations whose squares float32 does not hold. Float16 and bfloat16
    are widened exactly. Equal input, thread count (``torch.set_num_threads``) and device give equal bits. Threads may
    share an accumulator; the last digits then depend on the order in which they come.

    Args:
        precision: ``"float32"`` or ``"float64"`` products.
        norms: also keep what debiased CKA needs (see ``Covariance.norms``); costs one more pass over each tile.

    Example:
        >>> import torch
        >>> from prunecca import StreamingCovariance
        >>> acc = StreamingCovariance()
        >>> for _ in range(3):
        ...     x = torch.randn(128, 16)
        ...     acc.update(x, x @ torch.randn(16, 8))
        >>> acc.count, acc.finalize().xy.shape
        (384, torch.Size([16, 8]))
    """

    def __init__(self, *, precision: Precision = "float32", norms: bool = False) -> None:
        self._accumulator = CovarianceAccumulator(precision=precision, norms=norms)
        self._as_list = False

    @property
    def precision(self) -> Precision:
        """Of the products."""
        return self._accumulator.precision

    @property
    def norms(self) -> bool:
        """Whether what debiased CKA needs is kept."""
        return self._accumulator.norms

    @property
    def count(self) -> int | float:
        """Datapoints seen so far (times positions, for convolutional activations); with weights, the sum of them."""
        return self._accumulator.count

    def update(
        self,
        x: Any,
        y: Any = None,
        *,
        layout: Layout = "infer",
        where: str = "",
        rows: Any = None,
        weights: Any = None,
    ) -> None:
        """Add a batch of ``x`` with the same datapoints of ``y``.

        Args:
            x: (N, C), (N, C, H, W) or, by ``layout``, another torch, NumPy, CuPy or numba array of float16, bfloat16, float32 or
                float64, of any strides.
            y: nothing, one such array, or a list of candidates; the same in every call.
            layout: a letter for each dimension, ``c`` for the channels: ``"nc"``, ``"ncl"``, ``"nlc"``, ``"lnc"``,
                ``"nchw"``, ``"nhwc"``, ``"ncdhw"``. ``"infer"`` takes dimension 1 of 2, 4 or 5 dimensions; of 3, one
                must be named. ``"auto"`` takes dimension 1 of any.
            where: put in front of error messages, to name the layer and the batch.
            rows: a boolean array that is True for the rows that count: (N,) for datapoints; (N, L) or (N, H, W) for
                datapoints and positions, datapoints first whatever the layout; or (rows,), flat. The others take part in
                nothing: what they hold may be NaN.
            weights: a number from 0 on for each row, of the same shapes: 2 is the row twice, 0 is the row left out. ``count``
                is then the sum of the weights, and the products are taken in float64.

        Raises:
            ValueError: on NaN or infinity, on shapes that do not match each other or the earlier batches; the state
                is then as it was before the call. On a CUDA device nothing waits for the values: there, those that are
                not finite, and squares too large for float32 after the first batch, are reported by ``finalize``,
                ``merge`` and ``save``.
        """
        as_list = isinstance(y, list | tuple)
        if as_list:
            named = [(f"candidate {k}", candidate) for k, candidate in enumerate(y)]
        else:
            named = [] if y is None else [("y", y)]
        reference = View.of(x, "x", layout, where, rows, weights)
        candidates = [View.of(candidate, name, layout, where, rows, weights) for name, candidate in named]
        if self._accumulator.members and len(candidates) == len(self._accumulator.cross) and as_list != self._as_list:
            forms = ("a list of candidates", "one array or none")
            given, expected = forms if as_list else forms[::-1]
            raise ValueError(f"{reference.where}{given} was given; expected {expected} as before")
        first = not self._accumulator.members
        self._accumulator.add(reference, candidates)
        if first:
            self._as_list = as_list

    def update_reference(
        self, x: Any, *, layout: Layout = "infer", where: str = "", rows: Any = None, weights: Any = None
    ) -> None:
        """Add a batch of ``x`` alone; each candidate must follow with ``update_candidate`` and the same ``x``.

        Args:
            x: as in ``update``, and so the other arguments.
            layout: of ``x``.
            where: put in front of error messages.
            rows: which rows count; to be given again with each candidate.
            weights: how much they count; as ``rows``.
        """
        self._accumulator.add_reference(View.of(x, "the reference", layout, where, rows, weights))
        self._as_list = True

    def update_candidate(
        self,
        index: int,
        x: Any,
        y: Any,
        *,
        layout: Layout = "infer",
        where: str = "",
        rows: Any = None,
        weights: Any = None,
    ) -> None:
        """Add a batch of one candidate beside the reference's batch.

        Args:
            index: 0, 1, ... in the order in which the candidates are first given.
            x: the reference's batch, as given to ``update_reference``.
            y: the candidate's.
            layout: of both.
            where: put in front of error messages.
            rows: which rows count, as given to ``update_reference``.
            weights: how much they count; as ``rows``.
        """
        reference = View.of(x, "the reference", layout, where, rows, weights)
        candidate = View.of(y, f"candidate {index}", layout, where, rows, weights)
        self._accumulator.add_candidate(index, reference, candidate)

    def merge(self, other: StreamingCovariance) -> None:
        """Add what ``other`` has seen, as if its batches had been given here; ``other`` is not changed.

        Merging is associative up to float64 rounding, so threads, devices and ranks can each accumulate their share.

        Args:
            other: made with the same ``precision`` and ``norms``.
        """
        first = not self._accumulator.members
        self._accumulator.merge(other._accumulator)
        if first and self._accumulator.members:
            self._as_list = other._as_list

    def finalize(self) -> Covariance | list[Covariance]:
        """The covariance so far; accumulation may go on.

        Returns:
            The covariance of ``x`` with ``y``, without ``y`` that of ``x`` with itself; a list of them when candidates
            were given as a list or one by one.

        Raises:
            ValueError: fewer than two datapoints, or activations so large or small that float64 does not hold their
                squares.
        """
        if self._as_list:
            return self._accumulator.finalize()
        return self._accumulator.finalize()[0] if self._accumulator.cross else self._accumulator.alone()

    def save(self, path: str | Path) -> None:
        """Write the state to a safetensors file, to go on later or to merge elsewhere.

        Args:
            path: where to write.
        """
        self._accumulator.save(path, {"as_list": self._as_list})

    @classmethod
    def load(cls, path: str | Path) -> StreamingCovariance:
        """Read what ``save`` wrote.

        Args:
            path: the file.

        Returns:
            The accumulator, on the host.

        Raises:
            ValueError: the file holds something else.
        """
        accumulator, meta = CovarianceAccumulator.load(path)
        new = cls(precision=accumulator.precision, norms=accumulator.norms)
        new._accumulator, new._as_list = accumulator, meta["as_list"]
        return new
