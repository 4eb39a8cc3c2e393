"""What a file of covariances may hold: its tensors are checked against each other before anybody computes with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CorruptFile

_TOLERANCE = 1e-6  # of a matrix that should be symmetric, relative to its largest value


def check_fields(path: object, given: Collection[str], expected: Collection[str], what: str) -> None:
    """Check that a file has the metadata or tensors that are expected, and no others.

    Args:
        path: of the file.
        given: the names it has.
        expected: the names it must have.
        what: ``"metadata"`` or ``"tensors"``.

    Raises:
        CorruptFile: a name is missing, or one too many.
    """
    for name in sorted(set(given) ^ set(expected)):
        verb = "lacks" if name in expected else "has the unknown"
        raise CorruptFile(f"{path} {verb} {what} {name!a:.60}; expected {', '.join(sorted(expected))}")


def check_value(path: object, name: str, value: object, *, expected: str, holds: bool) -> None:
    """Check one value of the metadata.

    Args:
        path: of the file.
        name: of the value.
        value: as it was read.
        expected: what it should be, in words.
        holds: whether it is.

    Raises:
        CorruptFile: it is not.
    """
    if not holds:
        raise CorruptFile(f"{path} has {value!a:.60} as {name}; expected {expected}")


def is_count(value: object) -> bool:
    """Whether a value is a number of datapoints."""
    return type(value) is int and 0 <= value < 2**62


def weighted(*counts: int | float) -> dict[str, bool]:
    """What metadata says beside counts that are not whole, so that versions which know no weights name what they lack."""
    return {} if all(isinstance(count, int) for count in counts) else {"weighted": True}


def _is_count(value: object, meta: Mapping[str, Any]) -> bool:
    """Whether a value is a number of datapoints, or a sum of weights in a file that says so."""
    return is_count(value) or (meta.get("weighted") is True and type(value) is float and 0 <= value < 2**62)


def check_tensors(path: object, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that tensors are finite, float64 and of their shapes.

    Args:
        path: of the file.
        tensors: by name.
        shapes: of those that are checked.

    Raises:
        CorruptFile: one is not; the sentence names it.
    """
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.dtype != torch.float64 or tuple(tensor.shape) != tuple(shape):
            given = f"{tuple(tensor.shape)} of {tensor.dtype}"
            raise CorruptFile(f"{path} has a tensor {name} of shape {given}; expected {tuple(shape)} of float64")
        if not bool(torch.isfinite(tensor).all()):
            raise CorruptFile(f"{path} has NaN or infinity in its tensor {name}; expected finite numbers")


def check_covariance(path: object, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Check the tensors of a ``Covariance`` against each other, and its metadata.

    Args:
        path: of the file.
        tensors: ``mean_x``, ``mean_y``, ``xx``, ``yy``, ``xy`` and perhaps ``norms``.
        meta: ``count`` and ``precision``; of rotated coordinates ``rotation``; ``weighted`` where the count is not whole.

    Raises:
        CorruptFile: they do not fit each other; the sentence names what does not.
    """
    optional = [name for name in ("rotation", "weighted") if name in meta]
    check_fields(path, meta, ("count", "precision", *optional), "metadata")
    numbers = meta.get("rotation", [0] * 4)
    right = isinstance(numbers, list) and len(numbers) == 4 and all(map(is_count, numbers))
    check_value(path, "rotation", numbers, expected="four whole numbers from 0 on", holds=right)
    holds = _is_count(meta["count"], meta)
    check_value(path, "count", meta["count"], expected="a whole number from 0 on", holds=holds)
    check_precision(path, meta["precision"])
    may_lack = ("norms", "error_x", "error_y")
    check_fields(path, [*tensors, *may_lack], ("mean_x", "mean_y", "xx", "yy", "xy", *may_lack), "tensors")
    for name in ("mean_x", "mean_y"):
        if tensors[name].dim() == 0:
            raise CorruptFile(f"{path} has a single number as {name}; expected one for each channel")
    (*batch, x), (*_, y) = tensors["mean_x"].shape, tensors["mean_y"].shape
    shapes: dict[str, tuple[int, ...]] = {
        "mean_x": (*batch, x),
        "mean_y": (*batch, y),
        "xx": (*batch, x, x),
        "yy": (*batch, y, y),
        "xy": (*batch, x, y),
    }
    check_tensors(path, tensors, shapes | ({"norms": (*batch, 3)} if "norms" in tensors else {}))
    for name, width in (("error_x", x), ("error_y", y)):
        if name in tensors:  # infinite for a channel without variance
            finite = tensors[name].nan_to_num(nan=torch.nan, posinf=0.0)
            check_tensors(path, {name: finite}, {name: (*batch, width)})
    for name in ("xx", "yy"):
        matrix = tensors[name]
        if matrix.numel() and float((matrix - matrix.mT).abs().max()) > _TOLERANCE * float(matrix.abs().max()):
            raise CorruptFile(f"{path} has a matrix {name} that is not symmetric; expected a covariance")


def check_precision(path: object, precision: object) -> None:
    """Check the name of a precision.

    Args:
        path: of the file.
        precision: as it was read.

    Raises:
        CorruptFile: there is no such precision.
    """
    known = precision in ("float32", "float64")
    check_value(path, "precision", precision, expected="'float32' or 'float64'", holds=known)


def check_accumulator(path: object, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Check the tensors of an accumulator against each other, and its metadata.

    Args:
        path: of the file.
        tensors: ``0.shift``, ``0.sum``, ``0.gram``, ... of the representations, then ``gram`` of the pairs; ``norms``.
        meta: ``precision``, ``norms``, ``counts``, ``exact`` and ``as_list``; of newer files ``exponents``, ``wide``, ``far``;
            ``weighted`` where the counts are not whole.

    Raises:
        CorruptFile: they do not fit each other; the sentence names what does not.
    """
    newer = ("exponents", "wide", "far")
    present = newer if any(name in meta for name in newer) else ()
    optional = (*present, "weighted") if "weighted" in meta else present
    check_fields(path, meta, ("precision", "norms", "counts", "exact", "as_list", *optional), "metadata")
    check_precision(path, meta["precision"])
    norms, counts, as_list = (meta[name] for name in ("norms", "counts", "as_list"))
    check_value(path, "as_list", as_list, expected="true or false", holds=isinstance(as_list, bool))
    check_value(path, "norms", norms, expected="true or false", holds=isinstance(norms, bool))
    numbers = isinstance(counts, list) and all(_is_count(count, meta) for count in counts)
    check_value(path, "counts", counts, expected="whole numbers from 0 on", holds=numbers)
    for name in ("exact", *present[1:]):
        flags = meta[name]
        right = isinstance(flags, list) and len(flags) == len(counts) and all(type(flag) is bool for flag in flags)
        check_value(path, name, flags, expected="true or false for each of counts", holds=right)
    if present:
        exponents = meta["exponents"]
        right = isinstance(exponents, list) and len(exponents) == len(counts)
        right = right and all(type(e) is int and -1000 <= e <= 1000 for e in exponents)
        check_value(path, "exponents", exponents, expected="whole numbers from -1000 to 1000", holds=right)
    members = len(counts)
    names = [f"{k}.{name}" for k in range(members) for name in ("shift", "sum", "gram")]
    names += [f"{k}.gram" for k in range(members, 2 * members - 1)]
    names += [f"{k}.norms" for k in range(2 * members - 1)] if norms else []
    check_fields(path, tensors, names, "tensors")
    channels = [tensors[f"{k}.shift"].numel() for k in range(members)]
    pairs = [(c, c) for c in channels] + [(channels[0], c) for c in channels[1:]]
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (x, y) in enumerate(pairs):
        shapes[f"{k}.gram"] = (x, y)
        if k < members:
            shapes |= {f"{k}.shift": (x,), f"{k}.sum": (x,)}
        if norms:
            shapes[f"{k}.norms"] = (1 + x + y,)
    check_tensors(path, tensors, shapes)
