"""Files that are whole or absent: atomic writes, and network states that prove on loading that nothing changed.

Every file of a run directory goes through `write_atomic`: it is written beside its place, flushed to the disk and
renamed, so that a reader sees the old file or the new one and a process killed at any moment leaves neither damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..errors import RUN_AGAIN, CorruptFile
from .atomic import write_atomic


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hexadecimal) of names, dtypes, shapes and bits of the tensors; the order of the mapping is no matter."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def save_state(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None
) -> str:
    """Write tensors and JSON-able metadata as one safetensors file, atomically; return the digest of the tensors."""
    write_atomic(path, state_bytes(tensors, metadata))
    return digest(tensors)


def load_state(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written by `save_state`, verified against the digests it carries.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: the file is cut short, was changed, or was not written by `save_state`.
    """
    return state_from_bytes(Path(path).read_bytes(), str(path))


def state_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None) -> bytes:
    """The content of a file of `save_state`: the same state gives the same bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = _canonical(metadata or {})
    header = {
        "digest": digest(tensors),
        "metadata": text,
        "metadata_digest": hashlib.sha256(text.encode()).hexdigest(),
    }
    # One key only: safetensors writes several in random order, and the same state must give the same bytes.
    return safetensors.torch.save(tensors, metadata={"prunecca": json.dumps(header)})


def state_from_bytes(data: bytes, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of the content of a file of `save_state`; `name` is used in errors.

    Raises:
        CorruptFile: the content is not what was written.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["prunecca"])
        tensors = safetensors.torch.load(data)
        text, expected, text_expected = header["metadata"], header["digest"], header["metadata_digest"]
    except (struct.error, ValueError, KeyError, TypeError, OverflowError, safetensors.SafetensorError) as error:
        raise not_whole(name, data) from error
    if digest(tensors) != expected or hashlib.sha256(text.encode()).hexdigest() != text_expected:
        raise CorruptFile(f"{name} is damaged: its content does not match the digest it was written with{RUN_AGAIN}")
    return tensors, json.loads(text)


def not_whole(name: str, data: bytes) -> CorruptFile:
    """The error for content that is no state."""
    return CorruptFile(f"{name} is not a whole state file ({len(data)} bytes){RUN_AGAIN}")


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Write a mapping as indented JSON, atomically, with the digest of its content under the key ``sha256``."""
    value = {key: item for key, item in value.items() if key != "sha256"}
    signed = {**value, "sha256": hashlib.sha256(_canonical(value).encode()).hexdigest()}
    write_atomic(path, (json.dumps(signed, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping written by `write_json`.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: the file is cut short or was changed.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_bytes())
        expected = value.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptFile(f"{path} is not a whole record{RUN_AGAIN}") from error
    if not isinstance(value, dict) or hashlib.sha256(_canonical(value).encode()).hexdigest() != expected:
        raise CorruptFile(f"{path} is damaged or was edited: its content does not match its digest{RUN_AGAIN}")
    return value


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
