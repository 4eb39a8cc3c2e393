"""Files that are whole or absent: atomic writes, and network states that prove on loading that nothing changed.

Every file of a run directory goes through `write_atomic`: it is written beside its place, flushed to the disk and
renamed, so that a reader sees the old file or the new one and a process killed at any moment leaves neither damaged.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch

_PARTIAL = ".partial"
_ADVICE = "; remove it and run again"


class StorageError(OSError):
    """The folder or disk refuses to be written."""

    def __str__(self) -> str:
        return str(self.args[0])


class CorruptFile(ValueError):
    """A file is cut short or its content is not what was written."""

    @property
    def finding(self) -> str:
        """The sentence without its advice, for where the file is made again anyhow."""
        return str(self).removesuffix(_ADVICE)


def write_atomic(path: str | os.PathLike[str], write: Callable[[BinaryIO], object] | bytes) -> None:
    """Replace the file at `path` by what `write` puts into the binary stream it is given (or by the bytes `write`).

    The folder is made when it is missing. When anything fails, the old file stays and nothing half-written is left.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "xb") as stream:
                if isinstance(write, bytes):
                    stream.write(write)
                else:
                    write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> OSError:
    """The one-sentence form of `error`, met while writing `path`; the error itself when it is of another kind."""
    if isinstance(error, StorageError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"cannot write {path}: the disk is full; free some space and run the same command again")
    if error.errno == errno.EFBIG:
        return StorageError(
            f"cannot write {path}: it is larger than this process may write; raise the limit (ulimit -f) and run the same command again"
        )
    if error.errno == errno.EIO:
        return StorageError(f"cannot write {path}: the disk reports an error; check it, or choose another folder")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageError(
            f"cannot write {path}: the folder is read-only for this user; choose a folder that can be written"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return StorageError(f"cannot write {path}: a part of this path is a file, not a folder; choose another folder")
    return error


def remove_partial(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half-written of the file `name` in `folder`; only where no other process writes it."""
    for partial in folder.glob(f".{name}.*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hexadecimal) of names, dtypes, shapes and bits of the tensors; the order of the mapping is no matter."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hexadecimal) of the bytes of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_state(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None
) -> str:
    """Write tensors and JSON-able metadata as one safetensors file, atomically; return the digest of the tensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = digest(tensors)
    text = _canonical(metadata or {})
    header = {"digest": content, "metadata": text, "metadata_digest": hashlib.sha256(text.encode()).hexdigest()}
    # One key only: safetensors writes several in random order, and the same state must give the same bytes.
    write_atomic(path, safetensors.torch.save(tensors, metadata={"prunecca": json.dumps(header)}))
    return content


def load_state(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written by `save_state`, verified against the digests it carries.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: the file is cut short, was changed, or was not written by `save_state`.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["prunecca"])
        tensors = safetensors.torch.load(data)
        text, expected, text_expected = header["metadata"], header["digest"], header["metadata_digest"]
    except (struct.error, ValueError, KeyError, TypeError, OverflowError, safetensors.SafetensorError) as error:
        raise CorruptFile(f"{path} is not a whole state file ({len(data)} bytes){_ADVICE}") from error
    if digest(tensors) != expected or hashlib.sha256(text.encode()).hexdigest() != text_expected:
        raise CorruptFile(f"{path} is damaged: its content does not match the digest it was written with{_ADVICE}")
    return tensors, json.loads(text)


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
        raise CorruptFile(f"{path} is not a whole record{_ADVICE}") from error
    if not isinstance(value, dict) or hashlib.sha256(_canonical(value).encode()).hexdigest() != expected:
        raise CorruptFile(f"{path} is damaged or was edited: its content does not match its digest{_ADVICE}")
    return value


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sync_folder(folder: Path) -> None:
    # The rename itself must reach the disk; some network file systems have no fsync of a folder, and do it themselves.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
