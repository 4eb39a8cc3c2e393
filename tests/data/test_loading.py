"""Images read, split, batched: what a seed determines, what is never augmented, and what is said of wrong folders."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from prunecca import models, seeds
from prunecca.data import cifar10, digits, loading
from prunecca.data.augmentation import Augmentation, normalise
from prunecca.data.cifar10 import CIFAR10_CLASSES
from prunecca.data.image_folder import read_image_folder
from prunecca.data.loading import load, representation_subset
from prunecca.data.splits import Split, Splits

OFFICIAL = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def toy(count=50, classes=5, side=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return Split(pixels, torch.arange(count) % classes, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def gather(batches):
    inputs, labels = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(labels)


# --- batches


def test_without_a_seed_batches_are_the_normalised_images_in_order():
    split = toy()
    batches = split.batches(16)
    inputs, labels = gather(batches)
    by_hand = (split.images.double() / 255 - torch.tensor(split.mean).view(3, 1, 1)) / torch.tensor(split.std).view(
        3, 1, 1
    )
    torch.testing.assert_close(inputs.double(), by_hand, rtol=0, atol=1e-5)
    assert torch.equal(labels, split.labels)
    assert [len(batch) for _, batch in batches] == [16, 16, 16, 2]
    assert len(batches) == 4
    assert torch.equal(gather(batches)[0], inputs)


def test_a_shuffled_epoch_holds_every_image_once_and_follows_seed_and_epoch():
    split = Split(toy().images, torch.arange(50), (0.0,) * 3, (1.0,) * 3)  # labels are the indices

    def order(seed, epoch):
        return gather(split.batches(16, seed=seed, epoch=epoch))[1].tolist()

    assert sorted(order(0, 0)) == list(range(50))
    assert order(0, 0) == order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    inputs, labels = gather(split.batches(16, seed=3))
    assert torch.equal(inputs, normalise(split.images[labels], split.mean, split.std))


def test_augmentation_changes_with_the_epoch_and_not_with_the_batch_size():
    split, augmentation = toy(), Augmentation()
    first = gather(split.batches(16, seed=0, epoch=2, augmentation=augmentation))
    other = gather(split.batches(7, seed=0, epoch=2, augmentation=augmentation))
    assert torch.equal(first[0], other[0])
    assert torch.equal(first[1], other[1])
    still = gather(split.batches(16, seed=0, epoch=2))
    assert torch.equal(first[1], still[1])
    assert not torch.equal(first[0], still[0])

    same_order = Split(split.images[:1].expand(50, -1, -1, -1).contiguous(), split.labels, split.mean, split.std)
    epochs = [gather(same_order.batches(50, seed=0, epoch=epoch, augmentation=augmentation))[0] for epoch in (0, 1)]
    assert not torch.equal(*epochs)
    assert not torch.equal(epochs[0][0], epochs[0][1])  # and every image gets its own


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_the_memory_layout_changes_no_value(augmentation):
    split = toy()
    plain = gather(split.batches(50, seed=0, augmentation=augmentation))[0]
    (last, _), = split.batches(50, seed=0, augmentation=augmentation, channels_last=True)  # fmt: skip
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain, rtol=0, atol=1e-6)


def test_streams_of_different_purposes_are_independent():
    derived = {seeds.derive(s, p, e) for s in range(4) for p in ("order", "augmentation", "dropout") for e in range(4)}
    assert len(derived) == 48
    with pytest.raises(ValueError, match="seed is -1"):
        seeds.derive(-1, "order")


def test_wrong_batches_are_one_sentence():
    with pytest.raises(ValueError, match="batch is 0"):
        toy().batches(0)
    with pytest.raises(ValueError, match="augmentation needs a seed"):
        toy().batches(4, augmentation=Augmentation())


# --- representations and validation


def test_the_representation_images_are_fixed_and_never_augmented():
    split = Split(toy().images, torch.arange(50), (0.4,) * 3, (0.2,) * 3)
    subset = representation_subset(split, 20, batch=8)
    inputs, chosen = gather(subset)
    assert len(set(chosen.tolist())) == 20
    assert torch.equal(inputs, normalise(split.images[chosen], split.mean, split.std))
    again = gather(representation_subset(split, 20, batch=5))
    assert torch.equal(again[0], inputs)
    assert torch.equal(again[1], chosen)
    assert not torch.equal(gather(representation_subset(split, 20, seed=1))[1], chosen)
    assert len(gather(representation_subset(split, 5000))[1]) == 50
    with pytest.raises(ValueError, match="count is 0"):
        representation_subset(split, 0)


def test_validation_is_stratified_disjoint_and_fixed_by_its_seed():
    train = Split(toy(100).images, torch.arange(100) % 5, (0.4,) * 3, (0.2,) * 3)
    splits = Splits("toy", tuple("abcde"), train=train, test=toy(10))
    held = splits.hold_out(0.2, seed=4)
    assert torch.bincount(held.validation.labels).tolist() == [4] * 5
    assert torch.bincount(held.train.labels).tolist() == [16] * 5
    kept = sorted(set(range(100)) - set(held.held_out.tolist()))
    assert torch.equal(held.train.images, train.images[kept])
    assert torch.equal(held.validation.images, train.images[held.held_out])
    assert held.digest == splits.hold_out(0.2, seed=4).digest
    assert len({held.digest, splits.digest, splits.hold_out(0.2, seed=5).digest}) == 3
    with pytest.raises(ValueError, match="toy has a validation split already"):
        held.hold_out(0.1)
    with pytest.raises(ValueError, match="fraction is 1"):
        splits.hold_out(1.0)


def test_the_digest_sees_the_pixels():
    splits = Splits("toy", ("a",), train=toy(), test=toy(10))
    mean, std = loading._statistics(toy().images.clone().fill_(3))
    changed = Splits("toy", ("a",), train=Split(toy().images, toy().labels, mean, std), test=toy(10))
    assert changed.digest != splits.digest


def test_statistics_are_exact_and_constant_channels_do_not_divide_by_zero():
    images = toy(40).images
    images[:, 2] = 9
    mean, std = loading._statistics(images)
    values = images.double().transpose(0, 1).flatten(1) / 255
    np.testing.assert_allclose(mean, values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(std[:2], values.std(1, correction=0)[:2], rtol=1e-9)
    assert std[2] == pytest.approx(1 / 255)


# --- digits


@pytest.mark.parametrize("classes", [2, 4, 10])
def test_digits_are_real_images_with_a_fixed_stratified_test_set(classes):
    splits = load(f"digits{classes}")
    assert splits.class_names == tuple(str(digit) for digit in range(classes))
    assert splits.train.images.shape[1:] == (3, 32, 32)
    assert splits.train.images.dtype == torch.uint8
    assert splits.train.images.max() > 240
    assert torch.equal(splits.train.images[:, 0], splits.train.images[:, 2])
    per_class = torch.bincount(splits.train.labels), torch.bincount(splits.test.labels)
    assert per_class[0].min() > 135
    assert 34 <= per_class[1].min() <= per_class[1].max() <= 37
    assert load(f"digits{classes}").digest == splits.digest
    train = {image.numpy().tobytes() for image in splits.train.images}
    assert len(train & {image.numpy().tobytes() for image in splits.test.images}) <= 2


# --- CIFAR-10


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """A folder laid out as the official one, of few images: image i of a file is filled with its official label."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def put(name, content):
        import hashlib

        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    labels = list(range(10))
    batch = {"data": np.repeat(np.array(labels, dtype=np.uint8)[:, None], 3072, axis=1), "labels": labels}
    batch["data"][:, 1024:] += 100  # green and blue
    monkeypatch.setattr(CIFAR10, "train_list", [[n, put(n, batch)] for n in ("data_batch_1", "data_batch_2")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", put("test_batch", batch)]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": put("batches.meta", {"label_names": OFFICIAL})}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return folder


@pytest.mark.parametrize("classes", [2, 4, 6, 8, 10])
def test_cifar10_classes_come_in_the_papers_order(small_cifar10, classes):
    splits = load(models.Problem("some", "cifar10", classes), small_cifar10)
    assert splits.class_names == CIFAR10_CLASSES[:classes]
    assert sorted(splits.train.labels.tolist()) == sorted(list(range(classes)) * 2)
    for image, label in zip(splits.train.images, splits.train.labels.tolist(), strict=True):
        assert OFFICIAL[image[0, 0, 0]] == CIFAR10_CLASSES[label]
        assert image[1, 0, 0] == image[0, 0, 0] + 100


def test_the_papers_order_of_classes():
    assert CIFAR10_CLASSES[:6] == ("automobile", "truck", "airplane", "ship", "cat", "dog")
    assert CIFAR10_CLASSES[6:] == ("deer", "horse", "bird", "frog")


@pytest.mark.parametrize("place", [".", "..", "../.."])
def test_the_cifar10_folder_its_parent_and_its_grandparent_are_accepted(small_cifar10, place, monkeypatch):
    monkeypatch.setenv("PRUNECCA_DATA", str((small_cifar10 / place).resolve()))
    assert len(load("cifar4").test) == 4


def test_a_corrupt_cifar10_file_is_named_before_it_is_unpickled(small_cifar10, tmp_path):
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return open, (str(marker), "w")

    for name in ("data_batch_2", "test_batch", "batches.meta"):
        good = (small_cifar10 / name).read_bytes()
        (small_cifar10 / name).write_bytes(pickle.dumps({"data": Bomb(), "labels": []}))
        with pytest.raises(ValueError, match=rf"{name} is corrupt: its MD5 is not [0-9a-f]+; unpack"):
            load("cifar2", small_cifar10)
        (small_cifar10 / name).write_bytes(good[:-1])
        with pytest.raises(ValueError, match=f"{name} is corrupt"):
            load("cifar2", small_cifar10)
        (small_cifar10 / name).write_bytes(good)
    assert not marker.exists()
    (small_cifar10 / "data_batch_1").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_1 is missing; unpack"):
        load("cifar2", small_cifar10)


def test_a_missing_or_wrong_folder_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.delenv("PRUNECCA_DATA", raising=False)
    with pytest.raises(ValueError, match="cifar2 needs images: give their folder with --data or in the variable"):
        load("cifar2")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; give the folder of the images of cifar2"):
        load("cifar2", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="does not hold cifar-10-batches-py; give the folder"):
        load("cifar2", tmp_path)
    with pytest.raises(FileNotFoundError, match="has no folder train; expected train/CLASS/image"):
        load("resnet18", tmp_path)
    for name in ("cifar3", "digits11"):
        with pytest.raises(ValueError, match=f"there is no problem '{name}'"):
            load(name)
    with pytest.raises(ValueError, match="classes is 11; CIFAR-10 has subsets of 2 to 10"):
        cifar10.read_cifar10(tmp_path, 11)
    with pytest.raises(ValueError, match="classes is 1; there are 2 to 10 digits"):
        digits.read_digits(1)


@pytest.mark.cifar10
def test_the_official_cifar10(cifar10_folder):
    splits = load("cifar10", cifar10_folder)
    assert torch.bincount(splits.train.labels).tolist() == [4500] * 10
    assert torch.bincount(splits.validation.labels).tolist() == [500] * 10
    assert torch.bincount(splits.test.labels).tolist() == [1000] * 10
    # The well-known statistics of the 50000 training images.
    np.testing.assert_allclose(splits.train.mean, (0.4914, 0.4822, 0.4465), atol=1e-4)
    np.testing.assert_allclose(splits.train.std, (0.2470, 0.2435, 0.2616), atol=1e-4)
    two = load("cifar2", cifar10_folder)
    assert (len(two.train), len(two.test), two.validation) == (10000, 2000, None)


@pytest.mark.cifar10
def test_one_changed_byte_of_the_official_files_is_noticed(cifar10_folder, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    shutil.copytree(cifar10_folder / "cifar-10-batches-py", folder)
    path = folder / "data_batch_4"
    path.chmod(0o644)
    with open(path, "r+b") as stream:
        stream.seek(1_000_000)
        byte = stream.read(1)
        stream.seek(1_000_000)
        stream.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ValueError, match="data_batch_4 is corrupt"):
        load("cifar2", tmp_path)


# --- folders of images


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


@pytest.mark.cuda
def test_batches_on_the_gpu_are_those_on_the_host():
    split = toy()
    here = gather(split.batches(16, seed=1, epoch=3, augmentation=Augmentation()))
    there = gather(split.to("cuda").batches(16, seed=1, epoch=3, augmentation=Augmentation()))
    assert there[0].is_cuda
    assert torch.equal(there[1].cpu(), here[1])
    torch.testing.assert_close(there[0].cpu(), here[0], rtol=0, atol=1e-3)
