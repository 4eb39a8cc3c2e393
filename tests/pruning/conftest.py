"""Every SIMD level that this machine has, in turns."""

from collections.abc import Iterator

import pytest
from stepping import LEVELS

import prunecca as pc


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    before = pc.cpu_level()
    pc.set_cpu_level(request.param)
    yield request.param
    pc.set_cpu_level(before)
