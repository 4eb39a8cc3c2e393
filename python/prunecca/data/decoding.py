"""One image file as pixels: every kind that Pillow opens, scaled as its type says, or refused in a sentence."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class _UnknownRange(ValueError):
    """Nothing says which number is black and which is white."""


@contextlib.contextmanager
def opened(path: str) -> Iterator[io.BufferedReader]:
    """A regular file for reading; anything else is refused before it can block.

    Raises:
        ValueError: there is no such file, or it is a pipe, socket, device or folder.
    """
    try:
        # Without this flag, opening a pipe waits for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        mode = _mode(path)
        what = _KINDS.get(stat.S_IFMT(mode)) if mode is not None else None
        why = f"it is {what}" if what else "the link leads nowhere" if Path(path).is_symlink() else str(error.strerror)
        raise _unreadable(path, why) from error
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise _unreadable(path, f"it is {_KINDS.get(kind, 'no file')}")
    with open(descriptor, "rb") as stream:
        yield stream


def decode(path: str, side: int) -> Tensor:
    """An image as it is meant to be seen, its shorter side scaled to ``side`` pixels and its centre taken.

    The orientation that a camera noted is applied. 16-bit grey is scaled to 8 bits, and so are floats from 0 to 1; a
    transparent image gives the colours that it has.

    Args:
        path: of the file.
        side: of the result, in pixels.

    Returns:
        (3, side, side) uint8.

    Raises:
        ValueError: the file is no image that can be read, or the range of its numbers is not known.
    """
    from PIL import Image, ImageOps

    with opened(path) as stream:
        try:
            with Image.open(stream) as image:
                image.load()
                _turn_upright(image)
                fitted = ImageOps.fit(_eight_bits(image), (side, side), Image.Resampling.BILINEAR)
        except MemoryError:
            raise
        except _UnknownRange as error:
            raise ValueError(f"{path} cannot be read as an image: {error}; save it with 8 or 16 bits") from error
        except Exception as error:  # Pillow's decoders raise many kinds for a file that is not what it seems
            raise _unreadable(path, str(error).replace(f" {stream!r}", "")) from error
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def _turn_upright(image: Image.Image) -> None:
    """Turn the image as its EXIF orientation says, or leave it as it is stored where its EXIF data are damaged."""
    from PIL import ImageOps

    # A damaged note of the camera is no damaged image, and it fails in as many ways.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image as RGB of 8 bits per channel."""
    from PIL import Image

    if image.mode == "F" or image.mode == "I" or image.mode.startswith("I;"):
        return Image.fromarray(_grey(image)).convert("RGB")
    if "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
        through = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, "RGBA")  # Pillow has no direct way, or warns of it
        image = image.convert(through)
    return image.convert("RGB")


def _grey(image: Image.Image) -> np.ndarray[Any, Any]:
    """(H, W) uint8 of an image of one channel with more than 8 bits."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also where one is NaN
            raise _UnknownRange(f"its floats reach from {low:g} to {high:g}, and not from 0 to 1")
        fraction = values.astype(np.float64)
    elif image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise _UnknownRange("its integers have 32 bits, and nothing says which of them is white")
    else:
        bits = tags.get(_BITS, (16,))[0]
        fraction = values.astype(np.float64) / (2**bits - 1)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        fraction = 1 - fraction
    return np.rint(fraction * 255).clip(0, 255).astype(np.uint8)


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except OSError:
        return None


def _unreadable(path: str, why: str) -> ValueError:
    return ValueError(f"{path} cannot be read as an image: {why}; replace or remove it")
