"""Where an array of activations lies in a file or folder, found without unpickling anything.

It has shape (N, C), (N, C, H, W) or (N, C, L), datapoints first, in C order, of float16, bfloat16 (safetensors), float32
or float64. A ``.npy`` or safetensors file, a folder of such files as shards, and a member of a ``.npz`` file that is not
compressed are read in place; the rest through its library, see ``array_libraries``.
"""

from __future__ import annotations

import bisect
import itertools
import math
import os
import re
import tokenize
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

from ..errors import CorruptFile
from .array_libraries import DTYPES, EXPECTED, ActivationsOfLibrary, compressed_member, hdf5, is_zarr, zarr_array
from .read_ahead import Fetched, Piece
from .regular_files import open_regular
from .states import read_header

_SAFETENSORS_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
# NumPy reads a header as a Python literal.
_BAD_HEADER = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError, EOFError)
_KINDS = "a .npy or .safetensors file of activations, a folder of such files, or an array in a .npz, .h5 or .zarr file"
_NAMED = (".safetensors", ".npz", ".h5", ".hdf5")  # hold several arrays, one of which FILE:NAME means
_BESIDE = (".json", ".txt", ".md", ".csv")  # what people keep beside their shards
_LOCAL_HEADER = 30  # bytes before the name of a member of a zip archive
_MOST_DEFLATED = 1100  # times its size; deflate packs no tighter


@dataclass(frozen=True)
class _InPlace:
    """An array that lies in a file as it is in memory, ``offset`` bytes from the beginning."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    grain: int = 1

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def piece(self, start: int, stop: int) -> Piece:
        """Where a range of datapoints comes from."""
        size = self.row_bytes
        return Piece(self.path, self.offset + start * size, (stop - start) * size, self.dtype.itemsize)


_Part = _InPlace | ActivationsOfLibrary


@dataclass(frozen=True)
class StoredActivations:
    """An array of activations in a file, or in shards one after the other; datapoints first.

    Args:
        path: of the file or folder.
        shape: (N, C), (N, C, L) or (N, C, H, W).
        dtype: of the array.
        parts: the files that hold it.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: tuple[_Part, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one datapoint."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.shape[0] * self.row_bytes

    @property
    def begins(self) -> list[int]:
        """The first datapoint of each part."""
        return [0, *itertools.accumulate(part.shape[0] for part in self.parts[:-1])]

    @property
    def grain(self) -> int:
        """Datapoints that are best read together."""
        return max(part.grain for part in self.parts)

    @property
    def in_place(self) -> bool:
        """Whether every part lies in its file as it is in memory, so that columns can be read."""
        return all(isinstance(part, _InPlace) for part in self.parts)

    def columns(self, start: int, length: int) -> list[Piece]:
        """Where so many bytes of every datapoint come from, from byte ``start`` of each on; of parts that are in place."""
        size = self.dtype.itemsize
        return [
            Piece(part.path, part.offset + row * part.row_bytes + start, length, size)
            for part in self.parts
            if isinstance(part, _InPlace)
            for row in range(part.shape[0])
        ]

    def piece(self, start: int, stop: int) -> Piece | Fetched:
        """Where a range of datapoints comes from, which lies in one part."""
        begins = self.begins
        number = bisect.bisect_right(begins, start) - 1
        return self.parts[number].piece(start - begins[number], stop - begins[number])


def stored_activations(path: str | Path) -> StoredActivations:
    """Find an array of activations, without reading it.

    Args:
        path: of a ``.npy``, ``.safetensors``, ``.npz``, ``.h5`` or ``.zarr`` file, or of a folder of ``.npy`` or of
            ``.safetensors`` files, whose datapoints follow each other in the order of their names (numbers in them by
            value); ``file.safetensors:name`` where it holds several arrays, likewise ``.npz`` and ``.h5``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another format, truncated, empty, in Fortran order, or of another dtype or number of
            dimensions; shards that differ; a library that reads it is not installed.
    """
    file, name = _split_name(str(path))
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; expected {_KINDS}")
    if file.is_dir() and not is_zarr(file):
        parts = [_checked(_of_file(shard, name)) for shard in _shards(file)]
        first = parts[0]
        for other in parts[1:]:
            if (other.shape[1:], other.dtype) != (first.shape[1:], first.dtype):
                raise ValueError(
                    f"{first.path} holds {_described(first)} but {other.path} holds {_described(other)}; "
                    "shards must have the same dtype and, beside their datapoints, shape"
                )
        shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
        return StoredActivations(file, shape, first.dtype, tuple(parts))
    part = _checked(zarr_array(file) if file.is_dir() else _of_file(file, name))
    return StoredActivations(part.path, part.shape, part.dtype, (part,))


def _split_name(text: str) -> tuple[Path, str | None]:
    file, colon, name = text.rpartition(":")
    named = file.endswith(_NAMED) or (Path(file).is_dir() and not Path(text).exists())
    return (Path(file), name) if colon and file and named else (Path(text), None)


def _of_file(file: Path, name: str | None) -> _Part:
    if not file.is_file():
        raise ValueError(f"{file} is not a file; expected {_KINDS}")
    if file.suffix == ".npy":
        with open_regular(file) as stream:
            return _InPlace(file, *_npy(stream, file))
    if file.suffix == ".safetensors":
        return _safetensors(file, name)
    if file.suffix == ".npz":
        return _npz(file, name)
    if file.suffix in (".h5", ".hdf5"):
        return hdf5(file, name)
    raise ValueError(f"{file} ends in {file.suffix!r}; expected {_KINDS}")


def _checked(found: _Part) -> _Part:
    path = found.path
    if not all(type(side) is int and side >= 0 for side in found.shape):
        raise CorruptFile(f"{path} is corrupt: its header says shape {found.shape!r:.80}; expected whole numbers")
    if not 2 <= len(found.shape) <= 5:
        raise ValueError(f"{path} has shape {found.shape}; expected (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W)")
    if 0 in found.shape:
        raise ValueError(f"{path} has shape {found.shape}, which holds nothing; expected at least two datapoints")
    if isinstance(found, _InPlace):
        size, promised = path.stat().st_size, found.offset + found.shape[0] * found.row_bytes
        if size < promised:
            raise ValueError(f"{path} is truncated: it holds {size} bytes, but its header promises {promised}")
    return found


def _shards(folder: Path) -> list[Path]:
    """The files of a folder in the order of their names, with the numbers in them by value."""
    files = [f for f in folder.iterdir() if not f.name.startswith(".") and f.suffix not in _BESIDE]
    kinds = sorted({f.suffix for f in files})
    if not files:
        raise ValueError(f"{folder} is not a file but a folder without .npy or .safetensors files; expected {_KINDS}")
    if kinds not in ([".npy"], [".safetensors"]):
        odd = next((f for f in sorted(files) if f.suffix not in (".npy", ".safetensors")), None)
        what = f"{odd.name}" if odd is not None else ".npy and .safetensors files"
        raise ValueError(f"{folder} holds {what}; expected shards that are all .npy or all .safetensors files")
    return sorted(files, key=lambda f: ([int(x) if x.isdigit() else x for x in re.split(r"([0-9]+)", f.name)], f.name))


def _described(part: _Part) -> str:
    return f"{str(part.dtype).removeprefix('torch.')} of shape {part.shape}"


def _npy(stream: IO[bytes], where: Path | str) -> tuple[tuple[int, ...], torch.dtype, int]:
    """Shape, dtype, and where the numbers begin in the stream."""
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except _BAD_HEADER as error:
        raise ValueError(f"{where} is not a .npy file of numbers: {error!s:.200}") from error
    if dtype.hasobject:
        raise ValueError(f"{where} holds Python objects, which are never loaded; {EXPECTED}")
    if dtype.name not in DTYPES or not dtype.isnative:
        raise ValueError(
            f"{where} holds {dtype.str if dtype.kind == 'f' else dtype.name}; {EXPECTED} in native byte order"
        )
    if fortran:
        raise ValueError(f"{where} is in Fortran order; expected C order, which numpy.ascontiguousarray gives")
    return tuple(shape), DTYPES[dtype.name], stream.tell()


def _npz(path: Path, name: str | None) -> _Part:
    """A member of a .npz file: where it lies in it, or what unpacks it."""
    with open_regular(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                if name is None and len(members) == 1:
                    name = next(iter(members))
                info = members.get((name or "").removesuffix(".npy"))
                if info is None:
                    names = ", ".join(sorted(members)[:8]) + (", ..." if len(members) > 8 else "")
                    what = f"has no array {name!r}" if name is not None else f"holds {len(members)} arrays"
                    raise ValueError(f"{path} {what}; name one as {path}:NAME, of {names or 'none'}")
                where = f"{path}:{info.filename.removesuffix('.npy')}"
                if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{where} is encrypted or packed as numpy does not; save it with numpy.savez")
                with archive.open(info) as packed:
                    shape, dtype, begin = _npy(packed, where)
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise CorruptFile(f"{path} is no .npz file, or cut short ({error}); copy it again") from None
        stream.seek(info.header_offset)
        local = stream.read(_LOCAL_HEADER)
        found = _InPlace(path, shape, dtype, info.header_offset + _LOCAL_HEADER + begin)
    promised = begin + found.row_bytes * shape[0] if shape else begin
    packed_tightly = info.file_size > _MOST_DEFLATED * max(info.compress_size, 1)
    if info.file_size < promised or packed_tightly:
        raise CorruptFile(f"{where} is corrupt: it cannot hold the {promised} bytes that its header promises")
    if info.compress_type == zipfile.ZIP_DEFLATED:
        return compressed_member(path, info.filename, shape, dtype, begin)
    lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")  # of name and extra field
    return _InPlace(path, shape, dtype, found.offset + lengths)


def _safetensors(path: Path, name: str | None) -> _InPlace:
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
        raise ValueError(f"{path}:{name} holds {code!s:.40}; {EXPECTED}")
    lists = isinstance(shape, list) and isinstance(span, list) and len(span) == 2
    if not lists or not all(type(n) is int and n >= 0 for n in (*shape, *span)):
        raise CorruptFile(f"{path} is corrupt: its header does not say where tensor {name!r:.40} lies")
    first, last = span
    found = _InPlace(path, tuple(shape), _SAFETENSORS_DTYPES[code], begin + first)
    if not shape or last - first != shape[0] * found.row_bytes:
        raise ValueError(f"{path} is corrupt: tensor {name!r} of shape {found.shape} cannot have {last - first} bytes")
    return found
