"""Covariance: the second moments of two representations, which every metric is a function of."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..storage.states import read_tensors, with_checksum, write_tensors
from .memo import Memo
from .stored import check_covariance, weighted

Layout = str  # "infer", or a word such as "nchw" or "nlc": see covariance.view
Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class Rotation:
    """What rotated coordinates stand for.

    Attributes:
        channels_x: channels that x had.
        channels_y: channels that y had.
        dead_x: those without variance, which the coordinates leave out.
        dead_y: the same of y.
    """

    channels_x: int
    channels_y: int
    dead_x: int = 0
    dead_y: int = 0


@dataclass(frozen=True)
class Covariance:
    """The second moments of two representations ``x`` (channels Cx) and ``y`` (Cy) of the same datapoints.

    All tensors are float64 on one device and may carry leading batch dimensions.

    Attributes:
        count: number of datapoints (for convolutional layers, of datapoints times positions); of weighted ones the sum of
            the weights, a float where that is not whole.
        mean_x: (..., Cx) float64.
        mean_y: (..., Cy) float64.
        xx: (..., Cx, Cx) float64; unbiased, divided by ``count - 1``, as are ``yy`` and ``xy``.
        yy: (..., Cy, Cy) float64.
        xy: (..., Cx, Cy) float64.
        precision: ``"float32"`` or ``"float64"``: of the products that were summed; sets default tolerances.
        norms: (..., 3) float64; sums over datapoints of ``|x|^4``, ``|y|^4`` and ``|x|^2 |y|^2`` of the centred rows,
            for debiased CKA; None unless asked for.
        error_x: (..., Cx) float64; bound of the relative error that the products leave in the variance of each channel of
            x; infinite for a channel without variance. None where it is not known.
        error_y: (..., Cy) float64; the same of y.
        rotation: where the coordinates are no channels but rotations of them, as those of ``DualAccumulator``, what they
            stand for; None otherwise. Metrics that rotations change refuse such a covariance.
        memo_x: what was computed from ``xx`` alone, so that several metrics, and several covariances that share that
            very tensor, compute it once; made anew when ``dataclasses.replace`` gives another tensor.
        memo_y: the same of ``yy``.

    Example:
        >>> import torch
        >>> from prunecca import StreamingCovariance
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
        >>> acc = StreamingCovariance()
        >>> acc.update(x, 2 * x)
        >>> cov = acc.finalize()
        >>> cov.count, cov.mean_x.tolist(), cov.xx.tolist()
        (3, [2.0, 2.0], [[4.0, 3.0], [3.0, 3.0]])
    """

    count: int | float
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor
    precision: Precision = "float32"
    norms: Tensor | None = None
    error_x: Tensor | None = None
    error_y: Tensor | None = None
    rotation: Rotation | None = None
    memo_x: Memo = field(default_factory=Memo, repr=False, compare=False, kw_only=True)
    memo_y: Memo = field(default_factory=Memo, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        memo_x = self.memo_x.bound_to(self.xx)
        memo_y = memo_x if self.yy is self.xx else self.memo_y.bound_to(self.yy)
        object.__setattr__(self, "memo_x", memo_x)
        object.__setattr__(self, "memo_y", memo_y)

    @property
    def rotated(self) -> bool:
        """Whether the coordinates are rotations of channels, of which no single one can be told."""
        return self.rotation is not None

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of x and of y; of rotated coordinates, those that they stand for."""
        if self.rotation is not None:
            return self.rotation.channels_x, self.rotation.channels_y
        return self.xx.shape[-1], self.yy.shape[-1]

    def __getstate__(self) -> dict[str, Any]:
        # A copied tensor counts its writes anew, so that a copied memo could not tell a stale result.
        return {name: value for name, value in vars(self).items() if not isinstance(value, Memo)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, memo_x=Memo(), memo_y=Memo())
        self.__post_init__()

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, with a checksum of all that it holds.

        Args:
            path: where to write.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}
        meta: dict[str, Any] = {"kind": "Covariance", "count": self.count, "precision": self.precision}
        meta |= weighted(self.count)
        if self.rotation is not None:
            meta["rotation"] = list(astuple(self.rotation))
        write_tensors(path, tensors, with_checksum(tensors, meta))

    @classmethod
    def load(cls, path: str | Path) -> Covariance:
        """Read what ``save`` wrote; its numbers are checked against the checksum and against each other.

        Args:
            path: the file; one of an earlier version has no checksum, and is loaded without that comparison.

        Returns:
            The covariance, on the host.

        Raises:
            ValueError: the file holds something else, or was changed since it was written.
        """
        tensors, meta = read_tensors(path, "Covariance")
        check_covariance(path, tensors, meta)
        values: dict[str, Any] = {"count": meta["count"], "precision": meta["precision"], **tensors}
        rotation = Rotation(*meta["rotation"]) if "rotation" in meta else None
        return cls(rotation=rotation, **values)
