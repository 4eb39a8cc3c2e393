"""Covariance: the second moments of two representations, which every metric is a function of."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..storage.states import read_tensors, write_tensors

Layout = Literal["auto", "nlc"]
Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class Covariance:
    """The second moments of two representations ``x`` (channels Cx) and ``y`` (Cy) of the same datapoints.

    All tensors are float64 on one device and may carry leading batch dimensions.

    Attributes:
        count: number of datapoints (for convolutional layers, of datapoints times positions).
        mean_x, mean_y: ``(..., Cx)`` and ``(..., Cy)``.
        xx, yy, xy: ``(..., Cx, Cx)``, ``(..., Cy, Cy)``, ``(..., Cx, Cy)``; unbiased, divided by ``count - 1``.
        precision: ``"float32"`` or ``"float64"``: of the products that were summed; sets default tolerances.
        norms: ``(..., 3)`` sums over datapoints of ``|x|^4``, ``|y|^4`` and ``|x|^2 |y|^2`` of the centred rows, for
            debiased CKA; None unless asked for.
    """

    count: int
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor
    precision: Precision = "float32"
    norms: Tensor | None = None

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: value.contiguous() for name, value in tensors.items() if isinstance(value, Tensor)}
        save_tensors(path, tensors, {"kind": "Covariance", "count": self.count, "precision": self.precision})

    @classmethod
    def load(cls, path: str | Path) -> Covariance:
        """Read what ``save`` wrote; ``ValueError`` when the file holds something else."""
        tensors, meta = load_tensors(path, "Covariance")
        return cls(count=meta["count"], precision=meta["precision"], **tensors)


def save_tensors(path: str | Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    write_tensors(path, tensors, meta)


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return read_tensors(path, kind)
