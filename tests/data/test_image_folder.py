"""Folders of images, in memory or streamed from their files."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image
from splits import gather

from prunecca import models
from prunecca.data.augmentation import Augmentation
from prunecca.data.image_folder import read_image_folder
from prunecca.data.loading import load
from prunecca.data.splits import Split, Splits


@pytest.fixture
def image_folder(tmp_path):
    """Two classes, red and blue, of sizes and formats that differ."""
    for half, count in (("train", 6), ("val", 3)):
        for label, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            place = tmp_path / "images" / half / label
            place.mkdir(parents=True)
            for number in range(count):
                kind = ("png", "jpeg", "bmp")[number % 3]
                Image.new("RGB", (20 + 4 * number, 30 - 2 * number), colour).save(place / f"{number}.{kind}")
    return tmp_path / "images"


@pytest.mark.parametrize("limit", [0, 10**9])
def test_an_image_folder_in_memory_or_streamed(image_folder, limit):
    train, test, names = read_image_folder(image_folder, 12, memory_limit=limit)
    assert isinstance(train.images, torch.Tensor) == (limit > 0)
    assert names == ("blue", "red")
    assert (len(train.images), len(test.images)) == (12, 6)
    split = Split(train.images, train.labels, (0.0,) * 3, (1.0,) * 3)
    inputs, labels = gather(split.batches(5, seed=1, augmentation=Augmentation()))
    assert inputs.shape == (12, 3, 12, 12)
    red = inputs[:, 0].mean((1, 2)) > inputs[:, 2].mean((1, 2))
    assert torch.equal(red.long(), labels)


def test_streamed_and_stored_images_are_the_same(image_folder):
    halves = [read_image_folder(image_folder, 12, memory_limit=limit)[0] for limit in (0, 10**9)]
    both = [Split(half.images, half.labels, (0.4,) * 3, (0.2,) * 3) for half in halves]
    for changes in ({}, {"seed": 2}, {"seed": 2, "augmentation": Augmentation()}):
        streamed, stored = (gather(split.subset(torch.tensor([3, 11, 0, 5])).batches(3, **changes)) for split in both)
        assert torch.equal(streamed[0], stored[0])
        assert torch.equal(streamed[1], stored[1])
    assert both[0].image_size == both[1].image_size == 12


def test_any_torchvision_classifier_takes_an_image_folder(image_folder):
    splits = load("resnet18", image_folder, image_size=16)
    assert splits.class_names == ("blue", "red")
    assert len(splits.validation) == 2
    model = models.build("resnet18", len(splits.class_names), image_size=splits.train.image_size).eval()
    inputs, _ = next(iter(splits.test.batches(2)))
    assert model(inputs).shape == (2, 2)


def test_wrong_image_folders_are_one_sentence(image_folder):
    (image_folder / "train" / "red" / "0.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"red/0.png cannot be read as an image: .*; replace or remove it"):
        read_image_folder(image_folder, 12)
    streamed = read_image_folder(image_folder, 12, memory_limit=0)[0]
    with pytest.raises(ValueError, match="cannot be read as an image"):
        list(Split(streamed.images, streamed.labels, (0.4,) * 3, (0.2,) * 3).batches(4))
    (image_folder / "val" / "red").rename(image_folder / "val" / "green")
    with pytest.raises(ValueError, match=r"differ in their classes \(green, red\)"):
        read_image_folder(image_folder, 12)
    shutil.rmtree(image_folder / "val")
    with pytest.raises(FileNotFoundError, match="has no folder val"):
        read_image_folder(image_folder, 12)
    (image_folder / "val" / "green").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"val/green holds no images; expected files that end in .jpg, "):
        read_image_folder(image_folder, 12)


def test_the_digest_is_the_same_in_memory_and_streamed_and_sees_images_that_changed_places(image_folder):
    def digest(limit):
        train, test, names = read_image_folder(image_folder, 12, memory_limit=limit)
        halves = (Split(half.images, half.labels, (0.4,) * 3, (0.2,) * 3, half.files) for half in (train, test))
        return Splits("folder", names, *halves).hold_out(0.5).digest

    whole = digest(0)
    assert digest(10**9) == whole
    blue, red = (image_folder / "train" / name / "0.png" for name in ("blue", "red"))
    content = blue.read_bytes()
    blue.write_bytes(red.read_bytes())
    red.write_bytes(content)
    changed = digest(0)
    assert digest(10**9) == changed
    assert changed != whole
    assert changed.partition("-")[0] == whole.partition("-")[0]


@pytest.mark.timeout(20)
def test_links_in_a_circle_are_named(image_folder):
    for name in ("again", "round"):
        (image_folder / "train" / "red" / name).symlink_to("..", target_is_directory=True)
    with pytest.raises(ValueError) as caught:
        read_image_folder(image_folder, 12)
    place = image_folder / "train" / "red" / "again"
    assert str(caught.value) == f"{place} is a link to a folder that it lies in; remove the link"
