"""scikit-learn's handwritten digits as a data set that is always there."""

from __future__ import annotations

from typing import Any

import torch

from .. import seeds
from .images import Labelled, stratified

_DIGITS_TEST_FRACTION = 0.2


def read_digits(classes: int = 10, side: int = 32) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """scikit-learn's handwritten digits, of 8 x 8 pixels, resized, in three equal channels; a fixed fifth is the test set.

    Args:
        classes: the digits below this one.
        side: to which the images are resized, in pixels.

    Returns:
        Training images, test images, and the names of the classes.

    Raises:
        ValueError: there are not so many digits.
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
