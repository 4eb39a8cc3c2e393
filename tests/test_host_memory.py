"""Freed memory stays with the process inside, and goes back to the system afterwards."""

from __future__ import annotations

import gc

import psutil
import pytest
import torch

from prunecca import host_memory
from prunecca.host_memory import keeping_freed_memory

LARGE = 200 << 20


def resident() -> int:
    return psutil.Process().memory_info().rss


def allocate_and_free() -> None:
    torch.ones(LARGE, dtype=torch.uint8)
    gc.collect()


@pytest.mark.skipif(host_memory._glibc() is None, reason="needs glibc")
def test_freed_memory_is_kept_inside_and_given_back_after():
    before = resident()
    with keeping_freed_memory(torch.device("cpu")):
        allocate_and_free()
        assert resident() - before > LARGE // 2
    assert resident() - before < LARGE // 2
    allocate_and_free()
    assert resident() - before < LARGE // 2


def test_it_ends_with_an_error_too_and_other_devices_are_left_alone():
    with pytest.raises(KeyError), keeping_freed_memory(torch.device("cpu")):
        raise KeyError
    with keeping_freed_memory(torch.device("cuda")):
        allocate_and_free()
