"""Stored activations that only a library can read: compressed members of .npz files, HDF5 data sets and zarr arrays.

They are read in ranges of datapoints, so that one range at a time is in memory. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CorruptFile
from .read_ahead import Fetched, ReadRows
from .regular_files import open_regular

DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
EXPECTED = "expected float16, bfloat16, float32 or float64"
_LARGEST_METADATA = 8 << 20


class _Refused(ValueError):
    """The file is sound, and holds something else than is read."""


@dataclass(frozen=True)
class ActivationsOfLibrary:
    """An array of activations that a library reads; datapoints first.

    Args:
        path: what errors call it.
        shape, dtype: of the array.
        opened: a context that gives a function reading a range of datapoints; ranges are asked for in order.
        grain: datapoints that are stored, and unpacked, together.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    opened: Callable[[], contextlib.AbstractContextManager[ReadRows]]
    grain: int = 1

    def piece(self, start: int, stop: int) -> Fetched:
        """Where a range of datapoints comes from."""
        return Fetched(self.opened, start, stop, self.shape[1:], np.dtype(str(self.dtype).removeprefix("torch.")))


def hdf5(path: Path, name: str | None) -> ActivationsOfLibrary:
    """The data set of that name, or the only one, of an HDF5 file."""
    h5py = _library("h5py", path, "hdf5")
    with open_regular(path), _sentence(path, "an HDF5 file"), h5py.File(path, "r") as file:
        found: dict[str, Any] = {}
        file.visititems(lambda key, item: found.update({key: item}) if isinstance(item, h5py.Dataset) else None)
        name = _name(path, (name or "").strip("/") or None, sorted(found), "data set")
        data = found[name]
        dtype = _dtype(data.dtype, f"{path}:{name}")
        shape, grain = tuple(data.shape or ()), data.chunks[0] if data.chunks else 1

    @contextlib.contextmanager
    def opened() -> Iterator[ReadRows]:
        with h5py.File(path, "r") as file:
            data = file[name]

            def read(start: int, stop: int, into: np.ndarray[Any, Any]) -> None:
                with _sentence(Path(f"{path}:{name}"), "an HDF5 data set"):
                    data.read_direct(into, np.s_[start:stop])

            yield read

    return ActivationsOfLibrary(Path(f"{path}:{name}"), shape, dtype, opened, grain)


def is_zarr(folder: Path) -> bool:
    """Whether a folder holds a zarr array or a group of them."""
    return folder.suffix == ".zarr" or any((folder / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))


def zarr_array(folder: Path) -> ActivationsOfLibrary:
    """A zarr array, of format 2 or 3."""
    description = _zarr_description(folder)
    if any(word.rpartition(".")[2] == "pickle" for word in _words(description)):
        raise ValueError(f"{folder} holds pickled Python objects, which are never loaded; {EXPECTED}")
    zarr = _library("zarr", folder, "zarr")
    with _sentence(folder, "a zarr array"):
        array = zarr.open_array(str(folder), mode="r")
        dtype, blocks = _dtype(np.dtype(array.dtype), str(folder)), array.shards or array.chunks

    @contextlib.contextmanager
    def opened() -> Iterator[ReadRows]:
        def read(start: int, stop: int, into: np.ndarray[Any, Any]) -> None:
            with _sentence(folder, "a zarr array"):
                into[...] = array[start:stop]

        yield read

    return ActivationsOfLibrary(folder, tuple(array.shape), dtype, opened, blocks[0] if blocks else 1)


def compressed_member(
    path: Path, member: str, shape: tuple[int, ...], dtype: torch.dtype, begin: int
) -> ActivationsOfLibrary:
    """A compressed member of a .npz file, unpacked as it is read; its numbers begin ``begin`` bytes into it."""
    where = Path(f"{path}:{member.removesuffix('.npy')}")

    @contextlib.contextmanager
    def opened() -> Iterator[ReadRows]:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive, archive.open(member) as member_stream:
            packed: Any = member_stream
            packed.read(begin)

            def read(start: int, stop: int, into: Any) -> None:
                room, done = into.reshape(-1).view(np.uint8), 0
                with _sentence(where, "a .npz file"):
                    while done < len(room) and (got := packed.readinto(room[done:])):
                        done += got
                if done < len(room):
                    raise CorruptFile(f"{where} is truncated: it ended at datapoint {start} of {shape[0]}")

            yield read

    return ActivationsOfLibrary(where, shape, dtype, opened)


def _zarr_description(folder: Path) -> Any:
    """The JSON that describes an array, read before any library acts on it."""
    for name in ("zarr.json", ".zarray"):
        if (folder / name).is_file():
            with open_regular(folder / name, _LARGEST_METADATA) as stream:
                try:
                    found = json.loads(stream.read())
                except (ValueError, RecursionError):
                    raise CorruptFile(f"{folder / name} is damaged: it is no JSON; copy it again") from None
            if isinstance(found, dict) and found.get("node_type") != "group":
                return found
    inside = sorted(p.parent.name for n in ("zarr.json", ".zarray") for p in folder.glob(f"*/{n}"))
    arrays = f"a zarr group; name an array in it as {folder}/NAME, of {', '.join(inside[:8])}"
    raise ValueError(f"{folder} is {arrays if inside else 'a folder without a zarr array'}")


def _words(value: Any) -> Iterator[str]:
    """All texts in nested JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _words(part)


def _name(path: Path, name: str | None, names: list[str], what: str) -> str:
    if name is None and len(names) == 1:
        return names[0]
    if name is None or name not in names:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        found = f"has no {what} {name!r}" if name is not None else f"holds {len(names)} {what}s"
        raise _Refused(f"{path} {found}; name one as {path}:NAME, of {shown or 'none'}")
    return name


def _dtype(dtype: Any, where: str) -> torch.dtype:
    """The dtype of torch; the other byte order is one that libraries turn round."""
    if dtype.hasobject:
        raise _Refused(f"{where} holds Python objects, which are never loaded; {EXPECTED}")
    if dtype.name not in DTYPES:
        raise _Refused(f"{where} holds {dtype.name}; {EXPECTED}")
    return DTYPES[dtype.name]


def _library(name: str, path: Path, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"{path} is read with {name}, which is not installed; install it with pip install 'prunecca[{extra}]'"
        ) from None


@contextlib.contextmanager
def _sentence(path: Path, what: str) -> Iterator[None]:
    """Whatever a library raises of content that it cannot read, as one sentence."""
    try:
        yield
    except (_Refused, CorruptFile, FileNotFoundError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CorruptFile(f"{path} cannot be read as {what}: {reason}") from error
