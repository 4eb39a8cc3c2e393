"""The batch augmentation against its plain definition, against grid_sample, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecca import _native
from prunecca._arrays import native
from prunecca.data import augmentation
from prunecca.data.augmentation import Augmentation, normalise, warp

MEAN, STD = (0.5, 0.25, 0.75), (0.2, 0.1, 0.3)
IDENTITY = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])


def reference(images, index, maps, mean, std):
    """Bilinear resampling, zeros outside, then normalisation; float64, one pixel at a time."""
    _, channels, height, width = images.shape
    out = np.zeros((len(index), channels, height, width))
    for n, source in enumerate(index):
        for y in range(height):
            for x in range(width):
                u, v = maps[n].astype(np.float64) @ [x, y, 1.0]
                for row in (math.floor(v), math.floor(v) + 1):
                    for column in (math.floor(u), math.floor(u) + 1):
                        if 0 <= row < height and 0 <= column < width:
                            weight = (1 - abs(u - column)) * (1 - abs(v - row))
                            out[n, :, y, x] += weight * images[source, :, row, column]
    scale = np.array(std)[:, None, None]
    return (out / 255 - np.array(mean)[:, None, None]) / scale


def stored(count, channels, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "shape", [(3, 8, 8), (3, 7, 5), (1, 4, 9), (2, 5, 3), (4, 6, 6), (5, 3, 4), (9, 2, 2), (3, 1, 1)]
)
def test_warp_agrees_with_its_definition(shape, channels_last):
    channels, height, width = shape
    images = stored(6, *shape)
    index = torch.tensor([5, 0, 0, 3, 2])
    strong = Augmentation(crop=2, rotation=180, translation=0.5)
    maps = strong.draw(5, height, width, torch.Generator().manual_seed(1))
    mean, std = torch.linspace(0.1, 0.9, channels).tolist(), torch.linspace(0.2, 0.4, channels).tolist()
    out = warp(images, index, maps, mean, std, channels_last=channels_last)
    expected = reference(images.numpy(), index.tolist(), maps.numpy(), mean, std)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-4)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert out.is_contiguous(memory_format=layout)


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    entries=st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6),
)
def test_any_map_agrees_with_grid_sample(height, width, entries):
    images = stored(2, 3, height, width)
    maps = torch.tensor(entries).view(1, 2, 3)
    index = torch.tensor([1])
    by_torch = augmentation._warp_by_grid_sample(images[index], maps, MEAN, STD)
    # Single precision moves a sample by some ulps of its coordinate, and neighbouring pixels may differ by 10 (1 / std).
    ulps = 8 * 6e-8 * (float(maps.abs().sum()) * max(height, width) + max(height, width))
    torch.testing.assert_close(warp(images, index, maps, MEAN, STD), by_torch, rtol=0, atol=1e-5 + 10 * ulps)


def test_the_torch_route_agrees_with_the_native_one_on_the_papers_augmentation():
    images = stored(20, 3, 32, 32)
    index = torch.arange(20).flip(0)
    maps = Augmentation().draw(20, 32, 32, torch.Generator().manual_seed(2))
    by_torch = augmentation._warp_by_grid_sample(images[index], maps, MEAN, STD)
    torch.testing.assert_close(warp(images, index, maps, MEAN, STD), by_torch, rtol=0, atol=2e-4)


def test_the_identity_is_normalisation():
    images = stored(4, 3, 9, 6)
    index = torch.tensor([2, 1])
    out = warp(images, index, IDENTITY.expand(2, 2, 3).contiguous(), MEAN, STD)
    torch.testing.assert_close(out, normalise(images[index], MEAN, STD), rtol=0, atol=1e-6)
    by_hand = (images[index].double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(out.double(), by_hand, rtol=0, atol=1e-5)


def test_nothing_drawn_is_the_identity():
    still = Augmentation(crop=0, flip=False, rotation=0, translation=0)
    assert torch.equal(still.draw(3, 8, 8, torch.Generator()), IDENTITY.expand(3, 2, 3))


def test_crop_flip_translation_and_rotation_by_hand():
    images = stored(1, 3, 6, 6)
    plain = normalise(images, MEAN, STD)[0]
    black = normalise(torch.zeros_like(images), MEAN, STD)[0]
    zero = torch.tensor([0])

    def apply(rows):
        return warp(images, zero, torch.tensor([rows], dtype=torch.float32), MEAN, STD)[0]

    flipped = apply([[-1, 0, 5], [0, 1, 0]])
    torch.testing.assert_close(flipped, plain.flip(2), rtol=0, atol=1e-5)
    shifted = apply([[1, 0, 2], [0, 1, -1]])
    torch.testing.assert_close(shifted[:, 1:, :4], plain[:, :5, 2:], rtol=0, atol=1e-5)
    torch.testing.assert_close(shifted[:, :, 4:], black[:, :, 4:], rtol=0, atol=1e-5)
    quarter = apply([[0, 1, 0], [-1, 0, 5]])
    torch.testing.assert_close(quarter, torch.rot90(plain, -1, (1, 2)), rtol=0, atol=1e-5)


def test_draws_stay_within_their_bounds_and_reach_them():
    draw = Augmentation(crop=4, flip=True, rotation=15, translation=0.1).draw(
        20000, 32, 32, torch.Generator().manual_seed(0)
    )
    linear = draw[:, :, :2].double()
    determinant = linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0]
    torch.testing.assert_close(determinant.abs(), torch.ones_like(determinant), rtol=0, atol=1e-6)
    assert (determinant < 0).double().mean().item() == pytest.approx(0.5, abs=0.02)
    angle = torch.rad2deg(torch.asin(linear[:, 1, 0].abs()))
    assert 14.9 < angle.max() <= 15.001
    # The centre of the window comes from the image's centre, moved by at most the crop and the translation.
    centre = draw.double() @ torch.tensor([15.5, 15.5, 1.0], dtype=torch.float64) - 15.5
    turned = 3.2 * (math.cos(math.radians(15)) + math.sin(math.radians(15)))
    assert 6.5 < centre.abs().max() <= 4 + turned
    still = Augmentation(crop=0, flip=False, rotation=0, translation=0.1).draw(
        5000, 20, 40, torch.Generator().manual_seed(0)
    )
    assert 3.9 < still[:, 0, 2].abs().max() <= 4
    assert 1.95 < still[:, 1, 2].abs().max() <= 2


def test_the_same_generator_state_draws_the_same_maps():
    first, second, other = (Augmentation().draw(10, 32, 32, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("channels_last", [False, True])
def test_threads_and_neighbours_do_not_change_an_image(channels_last):
    images = stored(9, 3, 11, 13)
    maps = Augmentation().draw(9, 11, 13, torch.Generator().manual_seed(0))
    index = torch.arange(9)
    threads = torch.get_num_threads()
    whole = warp(images, index, maps, MEAN, STD, channels_last=channels_last)
    try:
        torch.set_num_threads(3)
        assert torch.equal(warp(images, index, maps, MEAN, STD, channels_last=channels_last), whole)
    finally:
        torch.set_num_threads(threads)
    for n in range(9):
        alone = warp(images, index[n : n + 1], maps[n : n + 1], MEAN, STD, channels_last=channels_last)
        assert torch.equal(alone[0], whole[n])


def test_nan_and_infinite_maps_read_nothing_outside_of_the_image():
    images = stored(1, 3, 8, 8)
    for bad in (math.nan, math.inf, -math.inf, 1e30):
        out = warp(images, torch.tensor([0]), torch.full((1, 2, 3), bad), MEAN, STD)
        assert out.isfinite().all()


def test_nothing_is_written_outside_of_the_output():
    images, index = stored(1, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
    scale, offset = torch.ones(3), torch.zeros(3)
    workspace = torch.empty(_native.warp_workspace(4, 4))
    for strides in ((48, 16, 4, 1), (48, 1, 12, 3), (60, 1, 15, 3), (192, 64, 16, 4)):
        memory = torch.full((1000,), -7.0)
        output = memory.as_strided((2, 3, 4, 4), strides, 100)
        inside = torch.zeros(1000, dtype=torch.bool)
        inside.as_strided((2, 3, 4, 4), strides, 100).fill_(True)
        maps = IDENTITY.expand(2, 2, 3).contiguous()
        _native.warp(*map(native, (images, index, maps, scale, offset, output, workspace)), 1)
        assert (memory[~inside] == -7).all()
        assert torch.equal(output[1], images[0].float())


def test_an_empty_batch_is_empty():
    empty = torch.empty(0, dtype=torch.int64)
    assert warp(stored(1, 3, 8, 8), empty, torch.empty(0, 2, 3), MEAN, STD).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"index": torch.tensor([0, 2])}, "index 1 is 2; there are 2 images"),
        ({"index": torch.tensor([-1, 0])}, "index 0 is -1"),
        ({"index": torch.tensor([0])}, "maps has shape .2, 2, 3.; expected .1, 2, 3."),
        ({"images": torch.zeros(2, 3, 4, 4)}, "images has dtype"),
        ({"images": stored(2, 4, 4, 3).permute(0, 3, 1, 2)}, "images is not contiguous"),
        ({"mean": (0.5,), "std": (0.5,)}, "one for each of 3 channels"),
        ({"maps": torch.zeros(2, 3, 3)}, "maps has shape"),
    ],
)
def test_mistakes_are_one_sentence(changes, sentence):
    arguments = {
        "images": stored(2, 3, 4, 4),
        "index": torch.tensor([0, 1]),
        "maps": torch.zeros(2, 2, 3),
        "mean": MEAN,
        "std": STD,
        **changes,
    }
    with pytest.raises(ValueError, match=sentence):
        warp(**arguments)


@pytest.mark.cuda
def test_the_gpu_gives_the_same_images():
    images = stored(20, 3, 32, 32)
    index = torch.arange(20).flip(0)
    maps = Augmentation().draw(20, 32, 32, torch.Generator().manual_seed(2))
    there = warp(images.cuda(), index.cuda(), maps.cuda(), MEAN, STD, channels_last=True)
    assert there.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(there.cpu(), warp(images, index, maps, MEAN, STD), rtol=0, atol=2e-4)
