"""Files of weights as people have them: safetensors and torch's, whole or in shards. Nothing in them is run."""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import pathlib
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.torch
import torch

from ..errors import CorruptFile, PickledObject
from .state_dicts import Shapes, StateDict, find_state
from .states import load_state, read_header

_INDEX = ".index.json"
_LARGEST_INDEX = 64 << 20
_MOST_UNPACKED = 16  # times the size of an archive; more is a trap, as torch does not compress
_IN_FOLDERS = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<ending>\.\w+)")
_NO_TORCH = "is a pickle, and none of torch; expected a state_dict saved by torch.save"
_SAVE = "torch.save(model.state_dict(), 'weights.pt')"
# Plain values that checkpoints hold beside their tensors (torchvision's references, timm, a best accuracy in NumPy).
_PLAIN_VALUES: list[Any] = [
    argparse.Namespace,
    collections.defaultdict,
    pathlib.Path,
    pathlib.PosixPath,
    np.dtype,
    np.ndarray,
    # How NumPy makes scalars and arrays; its versions 1 and 2 write it under different names.
    *(
        (made.__reduce__()[0], f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for made, name in ((np.float64(0), "scalar"), (np.zeros(1), "_reconstruct"))
    ),
    *(type(np.dtype(code)) for code in "efdbhilqBHILQ?"),
]
_BEGINNINGS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`"),
    (b"\x1f\x8b", "is compressed; unpack it with gunzip, and give the file inside"),
    (b"\x89HDF", "is an HDF5 file, as Keras makes; expected weights of torch or safetensors"),
    (b"GGUF", "is a GGUF file, whose weights are quantised; expected weights of torch or safetensors"),
    (b"\x93NUMPY", "is a NumPy array; for activations give --activations, for weights a state_dict"),
)


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Args:
        where: what errors call it.
        content: tensors, or nested mappings of them.
        metadata: what a file of ours says of its network.
        label: which of several networks in it is meant.
    """

    where: str
    content: object
    metadata: dict[str, Any]
    label: str | None = None

    def state(self, shapes: Shapes | None = None, whose: str = "the network") -> StateDict:
        """The weights of the network that has these shapes; see ``find_state``."""
        return find_state(self.content, self.where, shapes, self.label, whose)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The content of a file of weights: safetensors, torch's, the index of shards, or a folder that holds one of these.

    Args:
        path: of the file; ``checkpoint.pt:ema`` names one of several networks in it.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: it is damaged, or no file of weights; the sentence says what it seems to be.
    """
    file, label = Path(path), None
    if not file.exists():
        before, colon, after = str(path).rpartition(":")
        if colon and Path(before).exists():
            file, label = Path(before), after
    if file.is_dir():
        file = _in_folder(file)
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; expected a file of weights")
    file = _index_of(file) or file
    with _opened(file) as stream:
        content, metadata = _read(stream, file)
    return Checkpoint(str(file), content, metadata, label)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    # Without this flag, opening a pipe waits for somebody to write into it.
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise CorruptFile(f"{file} is a pipe or device; expected a file of weights")
        yield stream


def _in_folder(folder: Path) -> Path:
    for name in _IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} is a folder without {', '.join(_IN_FOLDERS)}; give a file of weights")


def _read(stream: BinaryIO, file: Path) -> tuple[object, dict[str, Any]]:
    size, start = os.fstat(stream.fileno()).st_size, stream.read(1024)
    stream.seek(0)
    if not size:
        raise CorruptFile(f"{file} is empty; copy or download it again")
    for beginning, what in _BEGINNINGS:
        if start.startswith(beginning):
            raise CorruptFile(f"{file} {what}")
    if re.match(rb"\s*<(!doctype|html|head|\?xml)", start, re.IGNORECASE):
        raise CorruptFile(f"{file} is a web page, which a failed download leaves; download the file itself again")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40:
        return _safetensors(stream, file, size)
    if start.startswith(b"PK"):
        _check_archive(stream, file, size)
        return _torch(stream, file), {}
    if start.startswith(b"\x80"):
        return _torch(stream, file), {}
    if start.lstrip().startswith(b"{"):
        return _shards(stream, file, size), {}
    is_text = not re.search(rb"[\x00-\x08\x0e-\x1f]", start)
    kind = "a text file" if is_text else "no file of weights, or its beginning is lost"
    raise CorruptFile(f"{file} is {kind}; expected a safetensors file, or a state_dict saved by torch.save")


def _safetensors(stream: BinaryIO, file: Path, size: int) -> tuple[object, dict[str, Any]]:
    try:
        header, begin = read_header(stream, size)
        ends = [int(item["data_offsets"][1]) for name, item in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise CorruptFile(f"{file} is a safetensors file whose header is damaged or cut; copy it again") from None
    if begin + max(ends, default=0) > size:
        raise CorruptFile(f"{file} is cut short: it has {size} bytes of {begin + max(ends)}; copy or download it again")
    if "prunecca" in (header.get("__metadata__") or {}):
        try:
            return load_state(file)
        except CorruptFile as error:
            raise CorruptFile(f"{error.finding}; copy it again, or let `prunecca reproduce` make it again") from None
    try:
        # By its descriptor: safetensors takes no names that are not UTF-8.
        return safetensors.torch.load_file(f"/dev/fd/{stream.fileno()}"), {}
    except (safetensors.SafetensorError, ValueError, TypeError, RuntimeError) as error:
        raise CorruptFile(f"{file} is a damaged safetensors file ({_first_line(error)}); copy it again") from None


def _check_archive(stream: BinaryIO, file: Path, size: int) -> None:
    """Say what a zip archive is that holds no checkpoint, before torch guesses."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise CorruptFile(
            f"{file} is cut short or damaged: its last part is missing; copy or download it again"
        ) from None
    finally:
        stream.seek(0)
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        raise CorruptFile(
            f"{file} is a TorchScript program; save its weights with torch.save(torch.jit.load(FILE).state_dict(), "
            "'weights.pt'), and give that file"
        )
    if not any(name.endswith("data.pkl") for name in names):
        what = "a NumPy archive" if any(name.endswith(".npy") for name in names) else "a zip archive"
        raise CorruptFile(f"{file} is {what} without weights of torch; unpack it, and give the file of weights")
    if sum(entry.file_size for entry in entries) > _MOST_UNPACKED * size:
        raise CorruptFile(f"{file} would unpack to more than {_MOST_UNPACKED} times its size; torch makes no such file")


def _torch(stream: BinaryIO, file: Path) -> object:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN_VALUES):
            warnings.simplefilter("ignore")
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
        if refused is None:
            raise CorruptFile(f"{file} {_NO_TORCH}") from None
        raise PickledObject(
            f"{file} holds an object of {refused[1]}, not weights alone, and loading it can run any code; where you trust "
            f"it, load it with torch.load(FILE, weights_only=False), save its weights with {_SAVE}, and give that file"
        ) from None
    except (
        RuntimeError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        OSError,
        MemoryError,
    ) as error:
        if "magic number" in str(error):
            raise CorruptFile(f"{file} {_NO_TORCH}") from None
        raise CorruptFile(f"{file} is cut short or damaged ({_first_line(error)}); copy or download it again") from None


def _shards(stream: BinaryIO, index: Path, size: int) -> dict[str, Any]:
    """The tensors of all files that an index names."""
    if size > _LARGEST_INDEX:
        raise CorruptFile(f"{index} is larger than an index of shards can be; expected a file of weights")
    try:
        names = json.loads(stream.read())["weight_map"]
        files = dict.fromkeys(names.values())
        if not all(isinstance(name, str) for name in (*names, *files)):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CorruptFile(f"{index} is JSON, but no index of shards (weight_map); expected a file of weights") from None
    tensors: dict[str, Any] = {}
    for name in files:
        if Path(name).name != name or name in ("", ".", "..") or name.endswith(".json"):
            raise CorruptFile(f"{index} names {name!r}; expected files of weights in its own folder")
        shard = index.with_name(name)
        if not shard.is_file():
            raise FileNotFoundError(f"{shard} is missing; {index.name} names it as one of {len(files)} shards")
        with _opened(shard) as part:
            content, _ = _read(part, shard)
        if isinstance(content, dict):
            tensors.update({key: content[key] for key, place in names.items() if place == name and key in content})
    if len(tensors) < len(names):
        lacking = next(key for key in names if key not in tensors)
        raise CorruptFile(
            f"{index.with_name(names[lacking])} lacks {lacking}, which {index.name} promises; copy it again"
        )
    return tensors


def _index_of(path: Path) -> Path | None:
    """The index of the shards of which this is one, where it is beside it."""
    found = _SHARD.fullmatch(path.name)
    if found is None or int(found["count"]) < 2:
        return None
    index = path.with_name(f"{found['stem']}{found['ending']}{_INDEX}")
    return index if index.is_file() else None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
