"""scikit-learn's digits as a data set."""

from __future__ import annotations

import pytest
import torch

from prunecca.data.loading import load


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
