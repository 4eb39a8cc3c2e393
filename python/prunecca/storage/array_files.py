"""Where an array of activations lies in a .npy or safetensors file, found without unpickling anything.

A file holds an array of shape (N, C), (N, C, H, W) or (N, C, L), datapoints first, in C order, of float16, bfloat16
(safetensors), float32 or float64.
"""

from __future__ import annotations

import math
import os
import tokenize
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import CorruptFile
from .regular_files import open_regular
from .states import read_header

_NPY_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
_SAFETENSORS_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
# NumPy reads a header as a Python literal.
_BAD_HEADER = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError)
_EXPECTED = "expected float16, bfloat16, float32 or float64"


@dataclass(frozen=True)
class StoredActivations:
    """Where an array of activations lies in a file; datapoints first, C order, little endian.

    Args:
        path: of the file.
        shape: (N, C), (N, C, L) or (N, C, H, W).
        dtype: of the array.
        offset: where in the file it begins, in bytes.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one datapoint."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.shape[0] * self.row_bytes


def stored_activations(path: str | Path) -> StoredActivations:
    """Find the array in a ``.npy`` or ``.safetensors`` file, without reading it.

    Args:
        path: of the file; ``file.safetensors:name`` where it holds several arrays.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another format, truncated, empty, in Fortran order, or of another dtype or number of
            dimensions.
    """
    file, name = _split_name(str(path))
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; expected a .npy or .safetensors file of activations")
    if not file.is_file():
        raise ValueError(f"{file} is not a file; expected a .npy or .safetensors file of activations")
    if file.suffix == ".npy":
        found = _npy(file)
    elif file.suffix == ".safetensors":
        found = _safetensors(file, name)
    else:
        raise ValueError(f"{file} ends in {file.suffix!r}; expected a .npy or .safetensors file of activations")
    if not all(type(side) is int and side >= 0 for side in found.shape):
        raise CorruptFile(f"{path} is corrupt: its header says shape {found.shape!r:.80}; expected whole numbers")
    if not 2 <= len(found.shape) <= 4:
        raise ValueError(f"{path} has shape {found.shape}; expected (N, C), (N, C, L) or (N, C, H, W)")
    if 0 in found.shape:
        raise ValueError(f"{path} has shape {found.shape}, which holds nothing; expected at least two datapoints")
    size, promised = file.stat().st_size, found.offset + found.nbytes
    if size < promised:
        raise ValueError(f"{file} is truncated: it holds {size} bytes, but its header promises {promised}")
    return found


def _split_name(text: str) -> tuple[Path, str | None]:
    file, colon, name = text.rpartition(":")
    return (Path(file), name) if colon and file.endswith(".safetensors") else (Path(text), None)


def _npy(path: Path) -> StoredActivations:
    with open_regular(path) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(stream)
        except _BAD_HEADER as error:
            raise ValueError(f"{path} is not a .npy file of numbers: {error!s:.200}") from error
        offset = stream.tell()
    if dtype.hasobject:
        raise ValueError(f"{path} holds Python objects, which are never loaded; {_EXPECTED}")
    if dtype.name not in _NPY_DTYPES or not dtype.isnative:
        raise ValueError(
            f"{path} holds {dtype.str if dtype.kind == 'f' else dtype.name}; {_EXPECTED} in native byte order"
        )
    if fortran:
        raise ValueError(f"{path} is in Fortran order; expected C order, which numpy.ascontiguousarray gives")
    return StoredActivations(path, tuple(shape), _NPY_DTYPES[dtype.name], offset)


def _safetensors(path: Path, name: str | None) -> StoredActivations:
    with open_regular(path) as stream:
        try:
            header, begin = read_header(stream, os.path.getsize(path))
        except ValueError as error:
            raise ValueError(f"{path} {error}") from error
    try:
        tensors = {
            key: (value["dtype"], value["shape"], value["data_offsets"])
            for key, value in header.items()
            if key != "__metadata__"
        }
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is no safetensors file: its header does not describe tensors") from error
    if name is None and len(tensors) == 1:
        name = next(iter(tensors))
    if name not in tensors:
        names = ", ".join(sorted(tensors)[:8]) + (", ..." if len(tensors) > 8 else "")
        what = f"has no tensor {name!r}" if name is not None else f"holds {len(tensors)} tensors"
        raise ValueError(f"{path} {what}; name one as {path}:NAME, of {names or 'none'}")
    code, shape, span = tensors[name]
    if not isinstance(code, str) or code not in _SAFETENSORS_DTYPES:
        raise ValueError(f"{path}:{name} holds {code!s:.40}; {_EXPECTED}")
    lists = isinstance(shape, list) and isinstance(span, list) and len(span) == 2
    if not lists or not all(type(n) is int and n >= 0 for n in (*shape, *span)):
        raise CorruptFile(f"{path} is corrupt: its header does not say where tensor {name!r:.40} lies")
    first, last = span
    found = StoredActivations(path, tuple(shape), _SAFETENSORS_DTYPES[code], begin + first)
    if not shape or last - first != found.nbytes:
        raise ValueError(f"{path} is corrupt: tensor {name!r} of shape {found.shape} cannot have {last - first} bytes")
    return found
