"""Where an array of activations lies in a .npy or safetensors file, found without unpickling anything.

A file holds an array of shape (N, C), (N, C, H, W) or (N, C, L), datapoints first, in C order, of float16, bfloat16
(safetensors), float32 or float64.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    pass
_NPY_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
_SAFETENSORS_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_EXPECTED = "expected float16, bfloat16, float32 or float64"
_LONGEST_HEADER = 100 << 20  # what the safetensors format allows


@dataclass(frozen=True)
class StoredActivations:
    """Where an array of activations lies in a file: ``offset`` in bytes; datapoints first, C order, little endian."""

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
        return self.shape[0] * self.row_bytes


def stored_activations(path: str | Path) -> StoredActivations:
    """Find the array in a ``.npy`` file, or in a ``.safetensors`` file: ``file.safetensors:name`` where it holds several.

    Raises ``FileNotFoundError``, and ``ValueError`` for a file that is of another format, truncated, empty, in Fortran
    order, or of another dtype or number of dimensions.
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
    if not 2 <= len(found.shape) <= 4:
        raise ValueError(f"{path} has shape {found.shape}; expected (N, C), (N, C, L) or (N, C, H, W)")
    if 0 in found.shape:
        raise ValueError(f"{path} has shape {found.shape}, which holds nothing; expected at least two datapoints")
    held = file.stat().st_size
    if held < found.offset + found.nbytes:
        raise ValueError(
            f"{file} is truncated: it holds {held} bytes, but its header promises {found.offset + found.nbytes}"
        )
    return found


def _split_name(text: str) -> tuple[Path, str | None]:
    file, colon, name = text.rpartition(":")
    return (Path(file), name) if colon and file.endswith(".safetensors") else (Path(text), None)


def _npy(path: Path) -> StoredActivations:
    with open(path, "rb") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read_header(stream)
        except ValueError as error:
            raise ValueError(f"{path} is not a .npy file of numbers: {error}") from error
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
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 0 < length <= min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"{path} is truncated, or no safetensors file: its header does not fit in it")
        try:
            header = json.loads(stream.read(length))
            tensors = {
                key: (value["dtype"], value["shape"], value["data_offsets"])
                for key, value in header.items()
                if key != "__metadata__"
            }
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is no safetensors file: its header does not describe tensors") from error
    if name is None and len(tensors) == 1:
        name = next(iter(tensors))
    if name not in tensors:
        names = ", ".join(sorted(tensors)[:8]) + (", ..." if len(tensors) > 8 else "")
        what = f"has no tensor {name!r}" if name is not None else f"holds {len(tensors)} tensors"
        raise ValueError(f"{path} {what}; name one as {path}:NAME, of {names or 'none'}")
    code, shape, (begin, end) = tensors[name]
    if code not in _SAFETENSORS_DTYPES:
        raise ValueError(f"{path}:{name} holds {code}; {_EXPECTED}")
    found = StoredActivations(path, tuple(shape), _SAFETENSORS_DTYPES[code], 8 + length + begin)
    if end - begin != found.nbytes:
        raise ValueError(f"{path} is corrupt: tensor {name!r} of shape {found.shape} cannot have {end - begin} bytes")
    return found
