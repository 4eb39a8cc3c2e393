"""Stored activations that need not fit in memory: .npy and safetensors files, read once while they are compared.

A file holds an array of shape (N, C), (N, C, H, W) or (N, C, L), datapoints first, in C order, of float16, bfloat16
(safetensors), float32 or float64. Nothing is unpickled: headers are parsed, and the numbers are read as numbers.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .bar import Progress, telling
from .covariance import Covariance, Layout, StreamingCovariance
from .gram import Precision
from .host_threads import teamwork
from .paired import default_precision
from .read_ahead import Chunk, Piece, read_ahead
from .scoring import choose_metrics, score

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["StoredActivations", "compare_files", "stored_activations"]

_CHUNK_BYTES = 16 << 20  # of all files together; two or three of these are held, and a disk reads it in one sweep
_STATE_BYTES = 32 << 20  # of a second accumulator
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


def compare_files(
    reference: str | Path,
    candidates: Sequence[str | Path],
    metrics: str | Iterable[str] | Mapping[str, Mapping[str, Any]] = ("svcca",),
    *,
    precision: Precision | None = None,
    layout: Layout = "auto",
    progress: Progress = False,
) -> pd.DataFrame:
    """Score stored activations against those of a reference, in one pass over all files and in little memory.

    Resident memory grows by about 50 MB and a few C x C float64 matrices, whatever the size of the files, which leave
    the page cache as it was.

    Args:
        reference, candidates: files as for ``stored_activations``, with the same datapoints in the same order.
        metrics: as in ``compare``.
        precision: of the products; None takes float64 for a few thousand rows or float64 files, and float32 otherwise.
        progress: True for a bar, or a function called with the bytes done and their total.

    Returns a table with the columns candidate, metric, value, count, channels, kept_x, kept_y.
    Raises ``ValueError`` or ``OSError`` as ``stored_activations``, and where files do not share their datapoints or hold
    NaN or infinity.
    """
    import pandas as pd

    chosen = choose_metrics(metrics)
    if not candidates:
        raise ValueError(f"only {reference} was given; expected a reference and at least one candidate")
    files = [stored_activations(path) for path in (reference, *candidates)]
    covariances = _covariances(
        files, precision=precision, norms="debiased_cka" in chosen, layout=layout, progress=progress
    )
    rows = [
        {"candidate": str(name), **scored, "count": cov.count, "channels": cov.xx.shape[-1]}
        for name, cov, scores in zip(candidates, covariances, score(covariances, chosen), strict=True)
        for scored in scores
    ]
    columns = ["candidate", "metric", "value", "count", "channels", "kept_x", "kept_y"]
    return pd.DataFrame(rows, columns=columns).astype({"kept_x": "Int64", "kept_y": "Int64"})


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


def _covariances(
    files: Sequence[StoredActivations],
    *,
    precision: Precision | None = None,
    norms: bool = False,
    layout: Layout = "auto",
    progress: Progress = False,
    chunk_bytes: int = _CHUNK_BYTES,
) -> list[Covariance]:
    """Covariances of the first file with each of the others, read in chunks of about ``chunk_bytes`` for all of them."""
    first = files[0]
    for other in files[1:]:
        if _datapoints(other, layout) != _datapoints(first, layout):
            raise ValueError(
                f"{first.path} has shape {first.shape} but {other.path} has {other.shape}; "
                "both must have the same datapoints and positions"
            )
    rows = math.prod(_datapoints(first, layout))
    step = max(1, chunk_bytes // sum(f.row_bytes for f in files))
    starts = range(0, first.shape[0], step)
    plan = [[_piece(f, start, min(start + step, f.shape[0])) for f in files] for start in starts]
    team = [
        StreamingCovariance(precision=precision or default_precision(rows), norms=norms)
        for _ in range(_team_size(files, layout, len(plan)))
    ]
    names = ", ".join(str(f.path) for f in files)

    def add(number: int, chunk: Chunk) -> int:
        x, *ys = (_activation(raw, f) for raw, f in zip(chunk.pieces, files, strict=True))
        where = f"{names}, datapoints {number * step} to {number * step + len(x) - 1}"
        team[number % len(team)].update(x, ys, layout=layout, where=where)
        chunk.release()
        return sum(raw.nbytes for raw in chunk.pieces)

    with (
        telling(progress, sum(f.nbytes for f in files), "bytes") as tell,
        read_ahead(plan, len(team) + 1) as chunks,
        teamwork(len(team)) as members,
    ):
        done = 0
        running: deque[Future[int]] = deque()
        for number, chunk in enumerate(chunks):
            running.append(members[number % len(team)].submit(add, number, chunk))
            while len(running) >= len(team) or (running and number == len(plan) - 1):
                done += running.popleft().result()
                tell(done)
    for member in team[1:]:
        team[0].merge(member)
    covariances = team[0].finalize()
    assert isinstance(covariances, list)
    return covariances


def _team_size(files: Sequence[StoredActivations], layout: Layout, chunks: int) -> int:
    """How many take the chunks in turns, each with an accumulator: two, while those are small and there are chunks for both.

    Threads that share a chunk wait for each other several times in it, and the reading often holds up one of them.
    """
    channels = [f.shape[2 if layout == "nlc" else 1] for f in files]
    state = 8 * sum(c * (c + channels[0]) for c in channels)
    return min(2, torch.get_num_threads(), chunks) if state <= _STATE_BYTES else 1


def _activation(raw: np.ndarray[Any, Any], file: StoredActivations) -> torch.Tensor:
    return torch.from_numpy(raw).view(file.dtype).reshape(-1, *file.shape[1:])


def _datapoints(file: StoredActivations, layout: Layout) -> tuple[int, ...]:
    return file.shape[:2] if layout == "nlc" else (file.shape[0], *file.shape[2:])


def _piece(file: StoredActivations, start: int, stop: int) -> Piece:
    offset, length = file.offset + start * file.row_bytes, (stop - start) * file.row_bytes
    return Piece(file.path, offset, length, file.dtype.itemsize)


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
