"""Freed memory stays with the process inside, and goes back to the system afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from prunecca.machine import memory
from prunecca.machine.memory import keeping_freed_memory

LARGE = 200 << 20

# A process of its own: the heap of one that has run other tests has holes, which decide what can be given back.
RESIDENT_BEFORE_INSIDE_AND_AFTER = f"""
import psutil, torch
from prunecca.machine.memory import keeping_freed_memory

def resident():
    return psutil.Process().memory_info().rss

def allocate_and_free():
    torch.ones({LARGE}, dtype=torch.uint8)

before = resident()
with keeping_freed_memory(torch.device("cpu")):
    allocate_and_free()
    inside = resident()
after = resident()
allocate_and_free()
print(before, inside, after, resident())
"""


@pytest.mark.skipif(memory._glibc() is None, reason="needs glibc")
def test_freed_memory_is_kept_inside_and_given_back_after():
    command = [sys.executable, "-c", RESIDENT_BEFORE_INSIDE_AND_AFTER]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, inside, after, later = map(int, told.split())
    assert inside - before > LARGE // 2
    assert after - before < LARGE // 2
    assert later - before < LARGE // 2


def test_it_ends_with_an_error_too_and_other_devices_are_left_alone():
    with pytest.raises(KeyError), keeping_freed_memory(torch.device("cpu")):
        raise KeyError
    with keeping_freed_memory(torch.device("cuda")):
        torch.ones(1)
