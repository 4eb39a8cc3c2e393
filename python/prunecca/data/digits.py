"""scikit-learn's handwritten digits as a data set that is always there."""

from __future__ import annotations

from typing import Any

import torch

from .. import seeds
from .images import Labelled, stratified

_DIGITS_TEST_FRACTION = 0.2


def read_digits(classes: int = 10, side: int = 32) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """scikit-learn's handwritten digits below ``classes``: 8 x 8, resized to ``side`` x ``side``, in three equal channels.

    A fixed fifth of each class is the test set.
    """
    from sklearn.datasets import load_digits

    if not 2 <= classes <= 10:
        raise ValueError(f"classes is {classes}; there are 2 to 10 digits to choose")
    digits: Any = load_digits()
    labels = torch.from_numpy(digits.target).long()
    small = torch.from_numpy(digits.images)[:, None] * (255 / 16)
    images = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)
    images = images.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)
    test = stratified(labels, _DIGITS_TEST_FRACTION, seeds.generator(0, "digits test set"))
    is_test = torch.zeros(len(labels), dtype=torch.bool).index_fill_(0, test, True)
    train, held_out = (
        Labelled(images[chosen].contiguous(), labels[chosen])
        for chosen in ((labels < classes) & ~is_test, (labels < classes) & is_test)
    )
    return train, held_out, tuple(str(digit) for digit in range(classes))
