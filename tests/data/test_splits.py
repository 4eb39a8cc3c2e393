"""Splits and their batches: what a seed and an epoch determine, and what validates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from splits import gather, toy

from prunecca.data.augmentation import Augmentation, normalise
from prunecca.data.splits import Split, Splits, same_data


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


def test_wrong_batches_are_one_sentence():
    with pytest.raises(ValueError, match="batch is 0"):
        toy().batches(0)
    with pytest.raises(ValueError, match="augmentation needs a seed"):
        toy().batches(4, augmentation=Augmentation())


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
    assert Splits("toy", ("a",), train=toy(), test=toy(10)).digest == splits.digest
    for half, there in (("train", (3, 1, 5, 5)), ("test", (9, 2, 0, 0))):
        images = getattr(splits, half).images.clone()
        images[there] ^= 1
        changed = replace(splits, **{half: replace(getattr(splits, half), images=images)})
        assert changed.digest != splits.digest
        assert not same_data(changed.digest, splits.digest)


def test_the_digest_sees_images_that_changed_places():
    splits = Splits("toy", ("a",), train=toy(), test=toy(10))
    order = torch.arange(len(splits.train))
    order[[0, 1]] = order[[1, 0]]
    assert splits.train.labels[0] != splits.train.labels[1]
    swapped = replace(splits, train=replace(splits.train, images=splits.train.images[order]))
    assert swapped.train.labels.equal(splits.train.labels)
    assert not same_data(swapped.digest, splits.digest)


def test_a_digest_without_images_is_compared_as_far_as_it_goes():
    digest = Splits("toy", ("a",), train=toy(), test=toy(10)).digest
    older, _, images = digest.partition("-")
    assert (len(older), len(images)) == (64, 64)
    assert same_data(older, digest)
    assert same_data(digest, older)
    assert not same_data(images, digest)


def test_a_class_with_one_image_cannot_validate():
    train = replace(toy(6), labels=torch.tensor([0, 0, 0, 0, 0, 1]))
    splits = Splits("toy", ("cat", "dog"), train=train, test=toy(6))
    with pytest.raises(ValueError) as caught:
        splits.hold_out(0.1)
    assert str(caught.value) == (
        "class 'dog' of toy has one training image, and a part of each class validates; give every class at least 2"
    )
    two = replace(splits, train=replace(train, labels=torch.tensor([0, 0, 0, 0, 1, 1])))
    assert torch.bincount(two.hold_out(0.9).train.labels).tolist() == [1, 1]


@pytest.mark.cuda
def test_batches_on_the_gpu_are_those_on_the_host():
    split = toy()
    here = gather(split.batches(16, seed=1, epoch=3, augmentation=Augmentation()))
    there = gather(split.to("cuda").batches(16, seed=1, epoch=3, augmentation=Augmentation()))
    assert there[0].is_cuda
    assert torch.equal(there[1].cpu(), here[1])
    torch.testing.assert_close(there[0].cpu(), here[0], rtol=0, atol=1e-3)
