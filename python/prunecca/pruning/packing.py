"""Masks as bits, one per weight, and as files of these."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._arrays import resolved
from ..errors import CorruptFile
from ..storage.states import load_state, save_state
from ..weights.names import some
from .masks import Masks, fitting_mask


def pack(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One bit per entry, for files.

    Args:
        masks: parameter name -> ``torch.bool``.

    Returns:
        Parameter name -> uint8 of ``ceil(entries / 8)`` bytes on the host, first entry in the lowest bit, row-major.

    Example:
        >>> import torch, prunecca as pc
        >>> pc.pruning.pack({"weight": torch.tensor([[True, False], [True, True]])})
        {'weight': tensor([13], dtype=torch.uint8)}
    """
    packed = {}
    for name, mask in masks.items():
        flat = fitting_mask(name, mask, None).cpu().contiguous().view(-1)
        packed[name] = torch.from_numpy(np.packbits(flat.numpy(), bitorder="little"))
    return packed


def unpack(packed: Mapping[str, Tensor], shapes: nn.Module | Mapping[str, Tensor | Sequence[int]]) -> Masks:
    """Masks from the bits of ``pack``.

    Args:
        packed: parameter name -> uint8.
        shapes: a model, or by name a tensor or a shape.

    Returns:
        Parameter name -> ``torch.bool`` of that shape, on the device of the bits.

    Raises:
        ValueError: the bits do not fit the shape, or one is set past the end.

    Example:
        >>> import torch, prunecca as pc
        >>> pc.pruning.unpack({"weight": torch.tensor([13], dtype=torch.uint8)}, {"weight": (2, 2)})
        {'weight': tensor([[ True, False],
                [ True,  True]])}
    """
    known = dict(shapes.named_parameters()) if isinstance(shapes, nn.Module) else dict(shapes)
    masks = {}
    for name, given in packed.items():
        data = resolved(given, f"packed mask '{name}'")
        if name not in known:
            raise ValueError(f"packed mask '{name}' has no parameter of that name; expected one of {some(known)}")
        like = known[name]
        shape = torch.Size(like.shape if isinstance(like, Tensor) else like)
        size = shape.numel()
        if data.dtype != torch.uint8 or data.shape != (-(-size // 8),):
            raise ValueError(
                f"packed mask '{name}' is {data.dtype} {tuple(data.shape)}; expected uint8 of {-(-size // 8)} bytes for shape {tuple(shape)}"
            )
        bits = np.unpackbits(data.cpu().numpy(), bitorder="little")
        if bits[size:].any():
            raise ValueError(f"packed mask '{name}' has bits set past its {size} entries; the file is damaged")
        masks[name] = torch.from_numpy(bits[:size].view(np.bool_)).reshape(shape).to(data.device)
    return masks


def save_masks(path: str | os.PathLike[str], masks: Mapping[str, Tensor]) -> None:
    """Write masks as one safetensors file, one bit per entry, with their shapes and a digest, whole or not at all.

    Args:
        path: of the file.
        masks: parameter name -> ``torch.bool``.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
        TypeError: a mask is not ``torch.bool``.

    Example:
        >>> import tempfile, torch, prunecca as pc
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pc.pruning.save_masks(f"{folder}/masks.safetensors", {"weight": torch.tensor([[True, False]])})
        ...     pc.pruning.load_masks(f"{folder}/masks.safetensors")
        {'weight': tensor([[ True, False]])}
    """
    shapes = {name: list(mask.shape) for name, mask in masks.items() if isinstance(mask, Tensor)}
    save_state(path, pack(masks), {"kind": "masks", "shapes": shapes})


def load_masks(path: str | os.PathLike[str]) -> Masks:
    """Read what ``save_masks`` wrote, verified. For masks and zeros in other files, see ``masks_from`` and its kin.

    Args:
        path: of the file.

    Returns:
        Parameter name -> ``torch.bool``, on the host, by sorted names.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: the file is cut short, was changed, or is something else.

    Example:
        >>> import tempfile, torch, prunecca as pc
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pc.pruning.save_masks(f"{folder}/masks.safetensors", {"bias": torch.tensor([True])})
        ...     pc.pruning.load_masks(f"{folder}/masks.safetensors")
        {'bias': tensor([True])}
    """
    bits, metadata = load_state(path)
    masks = unpack_stored(bits, metadata)
    if masks is None:
        raise CorruptFile(f"{path} holds no masks with shapes; expected a file of save_masks, or try masks_from")
    return masks


def unpack_stored(bits: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Masks | None:
    """The masks of a file of ``save_masks``; None for another."""
    shapes = metadata.get("shapes")
    if metadata.get("kind") != "masks" or not isinstance(shapes, dict):
        return None
    return unpack(dict(sorted(bits.items())), shapes)  # safetensors keeps no order
