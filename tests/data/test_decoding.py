"""Image files of every kind beside the same picture of 8 bits, and things among images that are none."""

from __future__ import annotations

import os
import socket

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from prunecca.data.decoding import decode
from prunecca.data.images import ImageFiles

SIDE = 24
FRACTION = np.random.default_rng(0).random((SIDE, SIDE)) ** 2
GREY = np.rint(FRACTION * 255)
COLOUR = np.stack([GREY, np.rint(GREY / 2), 255 - GREY], axis=-1).astype(np.uint8)


def decoded(path):
    return decode(str(path), SIDE).numpy()


@pytest.mark.parametrize("name", ["16.png", "16.tif", "16.pgm", "big-endian.tif", "float.tif", "white is zero.tif"])
def test_grey_of_more_than_8_bits_is_the_8_bit_picture(tmp_path, name):
    words = np.rint(FRACTION * 65535).astype(np.uint16)
    path, more = tmp_path / name, {}
    if name.startswith("float"):
        image = Image.fromarray(FRACTION.astype(np.float32))
    elif name.startswith("big"):
        image = Image.frombytes("I;16B", (SIDE, SIDE), words.astype(">u2").tobytes())
    elif name.startswith("white"):
        image, more = Image.fromarray(65535 - words), {"tiffinfo": {262: 0}}
    else:
        image = Image.fromarray(words)
    image.save(path, **more)
    pixels = decoded(path)
    assert np.abs(pixels - GREY).max() <= 1
    assert (pixels == pixels[0]).all()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.arange(4, dtype=np.int32), "its integers have 32 bits, and nothing says which of them is white"),
        (np.float32([0, 1, 0.5, 1.5]), "its floats reach from 0 to 1.5, and not from 0 to 1"),
        (np.float32([-0.5, 1, 0.5, 1]), "its floats reach from -0.5 to 1, and not from 0 to 1"),
        (np.float32([0, np.nan, 0, 1]), "its floats reach from nan to nan, and not from 0 to 1"),
    ],
)
def test_numbers_of_an_unknown_range_are_refused(tmp_path, values, sentence):
    path = tmp_path / "x.tif"
    Image.fromarray(values.reshape(2, 2)).save(path)
    with pytest.raises(ValueError) as caught:
        decoded(path)
    assert str(caught.value) == f"{path} cannot be read as an image: {sentence}; save it with 8 or 16 bits"


@pytest.mark.parametrize(
    ("mode", "kind", "more", "off"),
    [
        ("RGB", "png", {}, 0),
        ("RGBA", "png", {}, 0),
        ("CMYK", "tif", {}, 0),
        ("YCbCr", "tif", {}, 3),
        ("RGB", "png", {"transparency": (0, 0, 255)}, 0),
        ("P", "png", {}, 0),
        ("P", "gif", {}, 0),
        ("P", "png", {"transparency": bytes([0, 128] + 14 * [255])}, 0),
        ("P", "png", {"transparency": 1}, 0),
    ],
)
def test_every_mode_gives_the_colours_it_has(tmp_path, mode, kind, more, off):
    image = Image.fromarray(COLOUR)
    if mode == "P":  # the palette is exact for 16 colours
        image = Image.fromarray(COLOUR // 64 * 64).quantize(16)
    expected = np.array(image.convert("RGB")).transpose(2, 0, 1).astype(int)
    (image if mode == "P" else image.convert(mode)).save(tmp_path / f"x.{kind}", **more)
    assert np.abs(decoded(tmp_path / f"x.{kind}") - expected).max() <= off


@pytest.mark.parametrize("mode", ["1", "LA", "L"])
def test_grey_modes_give_three_equal_channels(tmp_path, mode):
    image = Image.fromarray(COLOUR).convert(mode)
    image.save(tmp_path / "x.png")
    pixels = decoded(tmp_path / "x.png")
    assert np.array_equal(pixels, np.repeat(np.array(image.convert("L"))[None], 3, axis=0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_camera_is_applied(tmp_path, orientation):
    stored = COLOUR[..., 0]
    right = {  # what EXIF says row 0 and column 0 of the file are, written out
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored[::-1].T,
        7: stored[::-1, ::-1].T,
        8: stored[:, ::-1].T,
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    for kind in ("png", "tif"):
        Image.fromarray(stored).save(tmp_path / f"x.{kind}", exif=exif)
        assert np.array_equal(decoded(tmp_path / f"x.{kind}")[0], right), kind


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_damaged_image(tmp_path):
    Image.fromarray(COLOUR).filter(ImageFilter.BLUR).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decoded(tmp_path / "x.jpg").shape == (3, SIDE, SIDE)


def among_images(folder, what):
    path = folder / f"{what}.png"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "link":
        path.symlink_to("nowhere")
    elif what == "folder":
        path.mkdir()
    elif what == "text":
        path.write_text("hello")
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    return path


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("pipe", "it is a named pipe"),
        ("device", "it is a device"),
        ("link", "the link leads nowhere"),
        ("folder", "it is a folder"),
        ("text", "cannot identify image file"),
        ("absent", "No such file or directory"),
        ("socket", "it is a socket"),
    ],
)
def test_what_is_no_image_is_named_and_never_waited_for(tmp_path, monkeypatch, what, sentence):
    monkeypatch.chdir(tmp_path)  # the address of a socket must be short
    path = among_images(tmp_path.relative_to(tmp_path), what)
    with pytest.raises(ValueError, match=f"^{path} cannot be read as an image: {sentence}; replace or remove it$"):
        decode(str(path), SIDE)
    if what != "text":
        with pytest.raises(ValueError, match=f"^{path} cannot be read as an image: {sentence}"):
            list(ImageFiles([str(path)], SIDE).digests())


def test_files_are_hashed_in_their_order(tmp_path):
    import hashlib

    paths = [tmp_path / f"{n}.bin" for n in range(200)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * number)
    files = ImageFiles(list(map(str, paths)), SIDE).subset(torch.arange(199, -1, -1))
    assert list(files.digests()) == [hashlib.sha256(bytes([n]) * n).digest() for n in range(199, -1, -1)]
