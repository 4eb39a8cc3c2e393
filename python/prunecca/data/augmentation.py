"""Random crop, flip, rotation and translation of a whole batch, composed into one affine resampling.

Per-image transforms are the bottleneck of training small networks on a CPU. Here a batch is gathered from the
stored uint8 images, resampled once (bilinear) and normalised in one native pass; on CUDA the same maps go through
``torch.nn.functional.grid_sample``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _native
from .._arrays import native

_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Augmentation:
    """The paper's augmentation: "cropping, horizontal flipping, and roto-translation" (section 4.1).

    In this order, and composed: the crop moves the window instead of cutting, so a rotation can bring back what a
    sequence of transforms would have lost, and each image is interpolated once.

    Args:
        crop: pixels of zero padding on each side before an equally large random crop.
        flip: mirror half of the images.
        rotation: up to so many degrees either way.
        translation: up to this fraction of the side, in each direction.

    Example:
        >>> import torch
        >>> from prunecca.data import Augmentation
        >>> turned = Augmentation(crop=0, flip=False, rotation=30, translation=0)
        >>> turned.draw(128, 32, 32, torch.Generator().manual_seed(0)).shape
        torch.Size([128, 2, 3])
    """

    crop: int = 4
    flip: bool = True
    rotation: float = 15.0
    translation: float = 0.1

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Random maps from output to input pixels.

        Args:
            count: of images.
            height, width: of an image in pixels.
            generator: draws the maps.

        Returns:
            (count, 2, 3) float32: the input position of an output pixel is ``map @ (column, row, 1)``.
        """

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64)

        shift_x, shift_y = torch.randint(-self.crop, self.crop + 1, (2, count), generator=generator).double()
        flipped = (uniform(count) < 0.5) & self.flip
        angle = (uniform(count) * 2 - 1) * math.radians(self.rotation)
        move_x, move_y = (uniform(2, count) * 2 - 1) * self.translation

        # Backwards from output pixel to input pixel: undo the translation, then the rotation about the centre...
        centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
        from_x, from_y = centre_x + move_x * width, centre_y + move_y * height
        cos, sin = torch.cos(angle), torch.sin(angle)
        row_x = torch.stack([cos, sin, centre_x - cos * from_x - sin * from_y], dim=1)
        row_y = torch.stack([-sin, cos, centre_y + sin * from_x - cos * from_y], dim=1)
        # ... then the flip, x -> width - 1 - x, then the crop.
        mirrored = torch.tensor([0.0, 0.0, width - 1.0], dtype=torch.float64) - row_x
        row_x = torch.where(flipped[:, None], mirrored, row_x)
        row_x[:, 2] += shift_x
        row_y[:, 2] += shift_y
        return torch.stack([row_x, row_y], dim=1).float()


def warp(
    images: Tensor,
    index: Tensor,
    maps: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    channels_last: bool = False,
) -> Tensor:
    """``images[index]`` resampled by ``maps`` and normalised. Bilinear; outside of an image everything is 0 (black).

    Args:
        images: (M, C, H, W) uint8, contiguous.
        index: (N,) int64.
        maps: (N, 2, 3) float32, as ``Augmentation.draw`` gives them.
        mean, std: per channel, of values scaled to [0, 1].
        channels_last: the memory layout of the result.

    Returns:
        (N, C, H, W) float32 on the device of the images.

    Raises:
        ValueError: shapes do not match, or an index is out of range.
    """
    memory = torch.channels_last if channels_last else torch.contiguous_format
    if images.is_cuda:
        maps, index = maps.to(images.device), index.to(images.device)
        return _warp_by_grid_sample(images[index], maps, mean, std).contiguous(memory_format=memory)
    shape = (len(index), *images.shape[1:])
    output = torch.empty(shape, dtype=torch.float32, memory_format=memory)
    scale, offset = scale_and_offset(tuple(mean), tuple(std))
    threads = torch.get_num_threads()
    workspace = torch.empty(threads * _native.warp_workspace(images.shape[2], images.shape[3]))
    _native.warp(
        native(images),
        native(index),
        native(maps),
        native(scale),
        native(offset),
        native(output),
        native(workspace),
        threads,
    )
    return output


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float], *, channels_last: bool = False) -> Tensor:
    """``(images / 255 - mean) / std`` per channel.

    Args:
        images: (N, C, H, W) uint8.
        mean, std: per channel, of values scaled to [0, 1].
        channels_last: the memory layout of the result.

    Returns:
        (N, C, H, W) float32.
    """
    memory = torch.channels_last if channels_last else torch.contiguous_format
    scale, offset = (v[:, None, None] for v in scale_and_offset(tuple(mean), tuple(std), images.device))
    return images.to(torch.float32, memory_format=memory).mul_(scale).add_(offset)


@functools.lru_cache(maxsize=16)
def scale_and_offset(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device = _HOST
) -> tuple[Tensor, Tensor]:
    """Normalisation as one multiplication and addition, (C,) each; kept, so that a GPU gets them once.

    Args:
        mean, std: per channel, of values scaled to [0, 1].
        device: where the two are.
    """
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32, device=device)
    offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32, device=device)
    return scale, offset


def _warp_by_grid_sample(images: Tensor, maps: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    height, width = images.shape[2:]
    # grid_sample counts from -1 to 1 between the outer edges of the image, both for what it reads and what it writes.
    # Written out with numbers: a small tensor made here would be copied to the GPU, which waits for it.
    column, row, shift = maps.unbind(dim=2)
    shift = shift + column * ((width - 1) / 2) + row * ((height - 1) / 2)
    to_x, to_y = torch.stack([column * (width / 2), row * (height / 2), shift], dim=2).unbind(dim=1)
    to_x[:, 2] -= (width - 1) / 2
    to_y[:, 2] -= (height - 1) / 2
    theta = torch.stack([to_x / (width / 2), to_y / (height / 2)], dim=1)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    values = torch.nn.functional.grid_sample(images.float(), grid, padding_mode="zeros", align_corners=False)
    scale, offset = (v[:, None, None] for v in scale_and_offset(tuple(mean), tuple(std), images.device))
    return values.mul_(scale).add_(offset)
