"""The data of a problem by its name, and the images on which layers are compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from splits import gather, toy

from prunecca.data import cifar10, digits, loading
from prunecca.data.augmentation import normalise
from prunecca.data.loading import load, representation_subset
from prunecca.data.splits import Split


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


def test_statistics_are_exact_and_constant_channels_do_not_divide_by_zero():
    images = toy(40).images
    images[:, 2] = 9
    mean, std = loading._statistics(images)
    values = images.double().transpose(0, 1).flatten(1) / 255
    np.testing.assert_allclose(mean, values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(std[:2], values.std(1, correction=0)[:2], rtol=1e-9)
    assert std[2] == pytest.approx(1 / 255)


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
