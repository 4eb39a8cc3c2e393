"""CIFAR-10 from its python batches: classes in the order of the paper, and files that are damaged."""

from __future__ import annotations

import hashlib
import pickle
import shutil

import numpy as np
import pytest
import torch

from prunecca import models
from prunecca.data.cifar10 import CIFAR10_CLASSES
from prunecca.data.loading import load

OFFICIAL = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def small_cifar10(tmp_path, monkeypatch):
    """A folder laid out as the official one, of few images: image i of a file is filled with its official label."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def put(name, content):
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
