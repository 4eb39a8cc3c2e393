"""Random streams by their purpose."""

import pytest

from prunecca import seeds


def test_streams_of_different_purposes_are_independent():
    derived = {seeds.derive(s, p, e) for s in range(4) for p in ("order", "augmentation", "dropout") for e in range(4)}
    assert len(derived) == 48
    with pytest.raises(ValueError, match="seed is -1"):
        seeds.derive(-1, "order")
