"""The dual form: covariances of representations with more channels than datapoints, from N x N matrices.

With the centred features in the columns of X, every similarity that rotations of a side do not change is a function of
the Gram matrix ``K = X X'``: its eigendecomposition ``U S^2 U'`` gives coordinates ``U S`` of the datapoints that differ
from X by a rotation alone. K is a sum over features, so that these come block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._arrays import as_tensor
from ..covariance.accumulate import FEW_ROWS, OutOfRange, accumulate, check_members
from ..covariance.covariance import Covariance, Precision, Rotation
from ..covariance.moments import PRODUCT_ERROR, RESOLUTION, Moments
from ..covariance.view import View
from ..linalg.batched import eigh

MOST_DATAPOINTS = 20_000  # whose matrix takes 3.2 GB
_PIECE_BYTES = 64 << 20  # of a block in float64, at a time
_FEWEST = 512  # features of a piece, so that the products outweigh the sums


class DualAccumulator:
    """Accumulates the Gram matrices of representations of the same N datapoints, block by block of their features.

    The counterpart of ``StreamingCovariance`` for more channels than datapoints, such as whole images of activations: that
    one takes all channels of some datapoints at a time and keeps C x C matrices, this one takes all datapoints of some
    channels and keeps one N x N float64 matrix per representation. Each feature is centred in float64; products are taken in
    float32 and summed in float64, as there.

    Args:
        precision: ``"float32"`` or ``"float64"`` products; float64 features are always taken in float64.
        max_datapoints: more are refused, with a sentence that says what to do.

    Example:
        >>> import torch
        >>> from prunecca import DualAccumulator, linear_cka
        >>> x, y = torch.randn(50, 3000), torch.randn(50, 400)
        >>> acc = DualAccumulator()
        >>> for start in range(0, 3000, 1000):
        ...     acc.update(x[:, start : start + 1000], y if start == 0 else None)
        >>> acc.features, abs(linear_cka(acc.finalize()) - linear_cka(x, y)) < 1e-6
        ((3000, 400), True)
    """

    def __init__(self, *, precision: Precision = "float32", max_datapoints: int = MOST_DATAPOINTS) -> None:
        if precision not in ("float32", "float64"):
            raise ValueError(f"precision is {precision!r}; expected 'float32' or 'float64'")
        self.precision: Precision = precision
        self.max_datapoints = max_datapoints
        self._members: list[_Member] = []
        self._as_list = False

    @property
    def count(self) -> int:
        """Datapoints, the same in every call."""
        return self._members[0].moments.channels if self._members else 0

    @property
    def features(self) -> tuple[int, ...]:
        """Features seen so far, of each representation."""
        return tuple(int(member.moments.count) for member in self._members)

    def update(self, x: Any, y: Any = None, *, where: str = "") -> None:
        """Add a block of features of each representation.

        Args:
            x: (N, f) features of all datapoints, as a torch, NumPy, CuPy or numba array of float16, bfloat16, float32 or
                float64; None where all features of x were given already.
            y: nothing, another such array, or a list of them for several candidates; f may differ, and None stands for no
                more features.
            where: put in front of error messages.

        Raises:
            ValueError: on NaN or infinity, and on shapes that do not match.
        """
        as_list = isinstance(y, list | tuple)
        candidates = list(y) if as_list else [y]
        self._as_list = self._as_list or as_list
        names = ["x", *([f"candidate {k}" for k in range(len(candidates))] if as_list else ["y"])]
        for index, block in enumerate([x, *candidates]):
            if block is not None:
                self.add(index, block, name=names[index], where=where)

    def add(self, index: int, block: Any, *, name: str = "x", where: str = "") -> None:
        """Add a block of features of one representation.

        Args:
            index: 0, 1, ... in the order in which the representations are first given.
            block: (N, f) features of all datapoints.
            name: what error messages call it.
            where: put in front of error messages.

        Raises:
            ValueError: as ``update``.
        """
        where = f"{where}: " if where else ""
        features = as_tensor(block, f"{where}{name}")
        if features.ndim != 2:
            raise ValueError(f"{where}{name} has shape {tuple(features.shape)}; expected (N, f), features in columns")
        if self._members and features.shape[0] != self.count:
            raise ValueError(
                f"{where}{name} has {features.shape[0]} datapoints; expected {self.count}, all of them in every block"
            )
        if features.shape[0] > self.max_datapoints:
            raise ValueError(
                f"{where}{name} has {features.shape[0]} datapoints and as many channels or more; expected at most "
                f"{self.max_datapoints}, because the dual form holds a matrix of datapoints by datapoints: take fewer, or "
                "the estimate of minibatch_cka"
            )
        if index > len(self._members):
            raise ValueError(f"{where}{name} came before representation {index - 1}; expected them in order")
        if self._members and features.device != self._members[0].moments.shift.device:
            expected = self._members[0].moments.shift.device
            raise ValueError(f"{where}{name} is on {features.device}, but the first block was on {expected}")
        # Outside of inference mode, within which a state could not be added to later.
        with torch.inference_mode(False), torch.no_grad():
            known = index < len(self._members)
            member = self._members[index] if known else _Member.of(features, self.precision)
            member.add(features, name, where)
            if not known:
                self._members.append(member)

    def merge(self, other: DualAccumulator) -> None:
        """Add the features that ``other`` has seen of the same datapoints; ``other`` is not changed.

        Args:
            other: of as many representations.

        Raises:
            ValueError: of other sizes.
        """
        if (self.count, len(self._members)) != (other.count, len(other._members)):
            raise ValueError(
                f"cannot merge {len(other._members)} representations of {other.count} datapoints into "
                f"{len(self._members)} of {self.count}; expected the same"
            )
        for mine, more in zip(self._members, other._members, strict=True):
            mine.merge(more)

    def coordinates(self, index: int = 0) -> Tensor:
        """The datapoints of one representation in coordinates that a rotation leads to: distances between them are the same.

        Args:
            index: its position.

        Returns:
            (N, r) float64, about their mean, of at most N - 1 coordinates, the widest first.
        """
        return self._members[index].coordinates().axes

    def covariance(self, x: int = 0, y: int = 1, *, order: Tensor | None = None) -> Covariance:
        """The covariance of two representations, by their positions, in coordinates that rotations lead to.

        Args:
            x: position of one.
            y: position of the other; may be the same.
            order: (N,) int64; which datapoint of y stands beside each of x. None for the same.

        Returns:
            A ``Covariance`` with ``rotated`` set, of at most N - 1 coordinates a side, the widest first. Metrics that
            rotations change refuse it.

        Raises:
            ValueError: fewer than two datapoints, or a representation that is not there.
        """
        for position in (x, y):
            if not 0 <= position < len(self._members):
                known = f"0 to {len(self._members) - 1}" if self._members else "none yet"
                raise ValueError(f"there is no representation {position}; expected one of {known}")
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 datapoints, but {self.count} were given")
        check_members([self._members[x].moments, self._members[y].moments])
        left, right = self._members[x].coordinates(), self._members[y].coordinates()
        scale = 1.0 / (self.count - 1)
        xx = torch.diag(left.squares * scale)
        alone = x == y and order is None
        axes, norms = (right.axes, right.norms) if order is None else (right.axes[order], right.norms[order])
        return Covariance(
            count=self.count,
            mean_x=torch.zeros_like(left.squares),
            mean_y=torch.zeros_like(right.squares),
            xx=xx,
            yy=xx if x == y else torch.diag(right.squares * scale),
            xy=xx if alone else left.axes.mT @ axes * scale,
            precision="float64" if left.exact and right.exact else "float32",
            norms=torch.stack([left.norms @ left.norms, right.norms @ right.norms, left.norms @ norms]),
            rotation=Rotation(left.features, right.features, left.dead, right.dead),
        )

    def finalize(self) -> Covariance | list[Covariance]:
        """The covariance of the first representation with each other; of itself where there is no other.

        Returns:
            One, or a list where a list of candidates was given.

        Raises:
            ValueError: fewer than two datapoints.
        """
        others = range(1, len(self._members))
        if self._as_list:
            return [self.covariance(0, y) for y in others]
        return self.covariance(0, 1 if others else 0)


@dataclass(frozen=True)
class _Coordinates:
    """Of the datapoints, rotated so that their axes are uncorrelated.

    Attributes:
        axes: (N, r) float64, widest first.
        squares: (r,) float64; squared norms of the columns.
        norms: (N,) float64; squared norms of the rows, which rotations do not change.
        exact: all products were taken in float64.
        features: that they stand for.
        dead: features without variance that they leave out.
    """

    axes: Tensor
    squares: Tensor
    norms: Tensor
    exact: bool
    features: int
    dead: int


class _Member:
    """The Gram matrix of one representation: the products of the native kernel, with datapoints for its channels."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.dead = torch.zeros((), dtype=torch.int64, device=moments.shift.device)
        self._known: _Coordinates | None = None

    @classmethod
    def of(cls, features: Tensor, precision: Precision) -> _Member:
        """Of no features, about zero: they are centred before."""
        shift = torch.zeros(features.shape[0], dtype=torch.float64, device=features.device)
        return cls(Moments.empty(shift, precision, False))

    def add(self, features: Tensor, name: str, where: str) -> None:
        """Add a block: all of it, or none."""
        finite = features.isfinite().all(0)
        if not bool(finite.all()):
            first = self.moments.count + int((~finite).nonzero()[0])
            raise ValueError(f"{where}{name} holds NaN or infinity, first in channel {first}")
        width = max(_FEWEST, _PIECE_BYTES // (8 * max(1, features.shape[0])))
        for start in range(0, features.shape[1], width):
            centred, constant = self._centred(features[:, start : start + width])
            view = View(centred.mT, 1, name, where)
            while True:
                try:
                    accumulate([self.moments], [view], [(0, 0)], [self.moments.scatter], [0])
                except OutOfRange as failure:
                    self.moments = self.moments.rescaled(failure.exponent)
                else:
                    break
            self.dead = self.dead + constant
        self._known = None

    def _centred(self, piece: Tensor) -> tuple[Tensor, Tensor]:
        """Features less their means, and how many are constant to the resolution of their type and become zero."""
        wide = piece.double()
        means = wide.mean(0)
        centred = wide - means
        narrow = piece.dtype != torch.float64 and self.moments.precision == "float32" and piece.shape[1] > FEW_ROWS
        limit = RESOLUTION["float32" if narrow else "float64"] * means.abs()
        largest = centred.abs().amax(0)
        constant = largest <= limit * math.sqrt(piece.shape[0])
        if bool(constant.any()):  # of these few the deviation, as a fraction of the largest, whose square float64 holds
            candidates = constant.nonzero().squeeze(1)
            fractions = centred[:, candidates] / largest[candidates].clamp_min(torch.finfo(torch.float64).tiny)
            constant[candidates] = fractions.square().mean(0).sqrt() * largest[candidates] <= limit[candidates]
            centred[:, constant] = 0.0
        return centred.float() if narrow and not self.moments.wide else centred, constant.sum()

    def merge(self, other: _Member) -> None:
        exponents = [e for e in (self.moments.fitting_exponent(), other.moments.fitting_exponent()) if e is not None]
        exponent = min(exponents, default=0)
        mine, more = (
            m.moments.copy() if m.moments.exponent == exponent else m.moments.rescaled(exponent) for m in (self, other)
        )
        check_members([self.moments, other.moments])
        mine.watch = self.moments.watch
        mine.add(more)
        mine.wide = mine.wide or more.wide
        self.moments, self.dead, self._known = mine, self.dead + other.dead, None

    def coordinates(self) -> _Coordinates:
        """From the eigenvectors above what rounding leaves; computed once."""
        if self._known is None:
            self._known = self._coordinates()
        return self._known

    def _coordinates(self) -> _Coordinates:
        m = self.moments
        gram = m.scatter.full(m, m)
        if m.exponent:  # in the units of the features, where float64 holds those
            plain = gram * 2.0**-m.exponent * 2.0**-m.exponent
            largest = float(plain.diagonal().max())
            gram = plain if 2.0**-960 < largest < math.inf else gram
        n = gram.shape[0]
        values, vectors = eigh(gram)
        values, vectors = values.flip(-1), vectors.flip(-1)
        # Independent errors of e sqrt(K_ii K_jj) disturb no eigenvalue by more than 2 e sqrt(N) max K_ii; the solver's
        # own are relative to the largest.
        error = PRODUCT_ERROR["float64" if m.exact else "float32"]
        limit = 2.0 * error * math.sqrt(n) * gram.diagonal().max() + n * torch.finfo(torch.float64).eps * values[0]
        kept = int((values > limit).sum())
        squares = values[: max(1, kept)].clamp_min(0.0) if kept else values.new_zeros(1)
        axes = vectors[:, : squares.shape[0]] * squares.sqrt()
        norms = axes.square().sum(1)  # of the same coordinates as all else: identities such as that of RSA cancel much
        return _Coordinates(axes, squares, norms, m.exact, int(m.count), max(0, int(self.dead) - (kept == 0)))


def dual_covariances(views: Sequence[View], precision: Precision, used: Callable[[], None]) -> list[Covariance]:
    """The covariance of the first representation with each other, from arrays.

    Args:
        views: with the same rows.
        precision: of the products.
        used: called after each block.

    Raises:
        ValueError: as ``DualAccumulator.update``.
    """
    accumulator = DualAccumulator(precision=precision)
    for index, view in enumerate(views):
        width = max(_FEWEST, _PIECE_BYTES // (8 * view.rows))
        for start in range(0, view.channels, width):
            part = view.tensor.narrow(view.channel_axis, start, min(width, view.channels - start))
            rows = part.movedim(view.channel_axis, -1).flatten(0, -2)
            accumulator.add(index, rows, name=view.name, where=view.where.removesuffix(": "))
            used()
    return [accumulator.covariance(0, y) for y in range(1, len(views))]
