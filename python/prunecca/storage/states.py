"""Tensors with metadata as safetensors files, and JSON records: the only reader and writer of either.

States and records carry a digest, and prove on loading that nothing changed. Every file is whole or absent.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch

from ..errors import RUN_AGAIN, CorruptFile
from .atomic import write_atomic
from .regular_files import LARGEST_RECORD, LARGEST_STATE, read_regular

_KEY = "prunecca"  # of the header
_CHECKSUM = "sha256"  # of the metadata of write_tensors and of records
_LONGEST_HEADER = (
    16 << 20
)  # bytes; the safetensors format allows more, but as Python objects they would fill the memory
# What parsers raise of content that nobody wrote on purpose.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, safetensors.SafetensorError)


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write tensors and JSON-able metadata as one safetensors file, whole or not at all.

    Args:
        path: of the file.
        tensors: of any device and strides.
        metadata: with the key ``kind``, which says what the tensors are.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    write_atomic(path, _bytes(tensors, metadata))


def with_checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with a checksum of itself and of the tensors, which ``read_tensors`` compares."""
    return {**metadata, _CHECKSUM: _checksum(tensors, metadata)}


def read_tensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata (without ``kind`` and checksum) of a file written by ``write_tensors``.

    Raises:
        ValueError: there is no such file, it is no safetensors file, or it holds something of another kind.
        CorruptFile: it has a checksum that is not that of its content.
    """
    try:
        data = read_regular(path, LARGEST_STATE)
        metadata = _metadata(data)
        tensors = safetensors.torch.load(data)
    except _UNREADABLE as error:
        raise ValueError(f"{path} is not a safetensors file that holds a {kind}: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("kind") != kind:
        raise ValueError(f"{path} is a safetensors file, but holds no {kind}")
    expected = metadata.pop(_CHECKSUM, None)
    # Files of the first version have none.
    if expected is not None and _checksum(tensors, metadata) != expected:
        raise CorruptFile(f"{path} is damaged: its content does not match its checksum; save the {kind} again")
    del metadata["kind"]
    return tensors, metadata


def read_header(stream: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where in the file the tensors begin.

    Args:
        stream: the file, read from its beginning.
        size: of the file, in bytes.

    Raises:
        ValueError: this is the header of no safetensors file; the sentence lacks its subject.
    """
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or not 0 < length <= min(size - 8, _LONGEST_HEADER):
        raise ValueError("is truncated, or no safetensors file: its header does not fit in it")
    try:
        header = parse_json(stream.read(length))
    except ValueError as error:
        raise ValueError("is no safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise ValueError("is no safetensors file: its header does not describe tensors")
    return header, 8 + length


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
    """Write tensors and JSON-able metadata as one safetensors file with their digests, whole or not at all.

    Returns:
        The digest of the tensors.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    content = digest(tensors)
    write_atomic(path, _signed_bytes(tensors, metadata, content))
    return content


def load_state(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written by ``save_state``, verified against the digests it carries.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: the file is cut short, was changed, was not written by ``save_state``, or is no regular file.
    """
    return state_from_bytes(read_regular(path, LARGEST_STATE), str(path))


def state_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None) -> bytes:
    """The content of a file of ``save_state``: the same state gives the same bytes."""
    return _signed_bytes(tensors, metadata, digest(tensors))


def state_from_bytes(data: bytes, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of the content of a file of ``save_state``.

    Args:
        data: the content.
        name: what errors call it.

    Raises:
        CorruptFile: the content is not what was written.
    """
    try:
        signed = _metadata(data)
        tensors = safetensors.torch.load(data)
        text, expected, text_expected = signed["metadata"], signed["digest"], signed["metadata_digest"]
        found, text_found, metadata = (
            digest(tensors),
            hashlib.sha256(text.encode()).hexdigest(),
            parse_json(text, finite=False),
        )
    except _UNREADABLE as error:
        raise not_whole(name, data) from error
    if found != expected or text_found != text_expected:
        raise CorruptFile(f"{name} is damaged: its content does not match the digest it was written with{RUN_AGAIN}")
    if not isinstance(metadata, dict):
        raise not_whole(name, data)
    return tensors, metadata


def not_whole(name: str, data: bytes) -> CorruptFile:
    """The error for content that is no state."""
    return CorruptFile(f"{name} is not a whole state file ({len(data)} bytes){RUN_AGAIN}")


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any], within: Path | None = None) -> None:
    """Write a mapping as indented JSON with the digest of its content under the key ``sha256``, whole or not at all.

    Args:
        path: of the file.
        value: what is written.
        within: the folder below which no link is followed.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    value = {key: item for key, item in value.items() if key != _CHECKSUM}
    signed = {**value, _CHECKSUM: hashlib.sha256(_canonical(value).encode()).hexdigest()}
    write_atomic(path, (json.dumps(signed, indent=1, allow_nan=False) + "\n").encode(), within)


def read_json(path: str | os.PathLike[str], within: Path | None = None) -> dict[str, Any]:
    """The mapping written by ``write_json``; ``within`` as there.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: the file is cut short, was changed, is no regular file, or is larger than records are.
    """
    data = read_regular(path, LARGEST_RECORD, within)
    try:
        value = parse_json(data)
        expected = value.pop(_CHECKSUM)
        found = hashlib.sha256(_canonical(value).encode()).hexdigest()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CorruptFile(f"{path} is not a whole record{RUN_AGAIN}") from error
    if not isinstance(value, dict) or found != expected:
        raise CorruptFile(f"{path} is damaged or was edited: its content does not match its digest{RUN_AGAIN}")
    return value


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """What a text of JSON says.

    Args:
        text: the text.
        finite: refuse NaN and infinity, which records never hold; the state of a learning-rate schedule may.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or holds a number that is refused.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite) if finite else json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> bytes:
    dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One key only: safetensors writes several in random order, and the same state must give the same bytes.
    return safetensors.torch.save(dense, metadata={_KEY: json.dumps(metadata)})


def _signed_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None, content: str) -> bytes:
    text = _canonical(metadata or {})
    text_digest = hashlib.sha256(text.encode()).hexdigest()
    return _bytes(tensors, {"digest": content, "metadata": text, "metadata_digest": text_digest})


def _metadata(data: bytes) -> Any:
    """What a file of ours says of its tensors; None when it is not one of ours."""
    header, _ = read_header(io.BytesIO(data), len(data))
    text = (header.get("__metadata__") or {}).get(_KEY)
    return None if text is None else parse_json(text)


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{digest(tensors)}\n{_canonical(metadata)}".encode()).hexdigest()


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
