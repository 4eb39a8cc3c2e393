"""Sizes and counts at which an index type or a table would run over, in emulation."""

from __future__ import annotations

import numpy as np
import pytest

from .build import build, run

CHUNK = 4096


@pytest.fixture(scope="module")
def chunks(cuda_host_folder):
    return build(cuda_host_folder, "chunks")


@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**31 + 5, 2**32 + CHUNK, 3 * 2**36 + 1])
def test_chunks_of_tensors_of_more_elements_than_32_bits_count(chunks, size):
    sizes = [5, size, 0, CHUNK + 1]
    places = [0, 1, 2**19, -(-size // CHUNK), -(-size // CHUNK) + 1, -(-size // CHUNK) + 2]
    asked = [np.asarray(places, np.int64), np.zeros((len(places), 5), np.int64)]
    _, found = run(chunks, [4, *sizes, len(places)], asked)
    begins = [0, 1, 1 + -(-size // CHUNK)]
    for place, (tensor, begin, end, last_four, total) in zip(places, found.tolist(), strict=True):
        held = [0, 1, 3][sum(place >= b for b in begins) - 1]
        first = (place - begins[[0, 1, 3].index(held)]) * CHUNK
        assert (tensor, begin, end) == (held, first, min(first + CHUNK, sizes[held]))
        assert (last_four, total) == (first + CHUNK - 4, begins[2] + 2)
