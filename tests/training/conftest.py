"""Two tiny splits to train on."""

import pytest
from trainings import images

from prunecca.data.splits import Splits


@pytest.fixture(scope="module")
def splits():
    return Splits("tiny", ("a", "b", "c"), train=images(60, 1), test=images(30, 2))


@pytest.fixture(scope="module")
def validated(splits):
    return splits.hold_out(0.2)
