"""The CPU level ``amx``, through the stand-in for its instructions; where the machine has them, they give the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from streams import DTYPES, correlated, covariance, error

import prunecca as pc
from prunecca import _native

F32 = np.float32
HAS_AMX = pc.build_info()["cpu_level_best"] == "amx"
RUN_AMX = os.environ.get("PRUNECCA_REQUIRE_AMX", "") not in ("", "0")


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    before, threads = pc.cpu_level(), torch.get_num_threads()
    pc.set_cpu_level("amx_emulated")
    torch.set_num_threads(1)
    yield
    pc.set_cpu_level(before)
    torch.set_num_threads(threads)


def without_mean(n: int, c: int) -> torch.Tensor:
    """Every row is followed by its negative: sums are exactly zero, and so is the shift."""
    half = torch.randn(n // 2, c)
    return torch.stack([half, -half], 1).reshape(n, c)


def at_level(name: str, call: Callable[[], Any]) -> Any:
    before = pc.cpu_level()
    pc.set_cpu_level(name)
    try:
        return call()
    finally:
        pc.set_cpu_level(before)


def products_of(call: Callable[[], Any]) -> int:
    before = _native.emulated_tile_counts()[0]
    call()
    return _native.emulated_tile_counts()[0] - before


def parts_of(x: np.ndarray) -> list[np.ndarray]:
    """Three bfloat16 values whose sum is x, each the nearest (away from zero in the middle)."""
    parts = []
    for _ in range(3):
        part = ((x.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(F32)
        parts.append(part)
        x = x - part
    assert not x.any()
    return parts


def tile_product(sums: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What Intel documents for TDPBF16PS: even and odd rows apart, fused, rounded to float32 at each step."""
    both = []
    for first in (0, 1):
        total = np.zeros_like(sums)
        for k in range(first, 32, 2):
            total = F32(total.astype(float) + np.outer(a[k].astype(float), b[k].astype(float)))
        both.append(total)
    return F32(sums + F32(both[0] + both[1]))


def test_the_bits_are_those_of_the_documented_instructions() -> None:
    x = without_mean(512, 16)
    gram = np.zeros((16, 16))
    parts = parts_of(x.numpy())
    for tile in range(0, 512, 64):  # of fewer than 1024 rows
        sums = np.zeros((16, 16), F32)
        for start in (tile, tile + 32):
            p = [part[start : start + 32] for part in parts]
            for right, left in ((2, 0), (1, 1), (1, 0), (0, 2), (0, 1)):
                sums = tile_product(sums, p[left], p[right])
        for start in (tile, tile + 32):
            sums = tile_product(sums, parts[0][start : start + 32], parts[0][start : start + 32])
        gram += sums
    assert np.array_equal(np.triu(covariance((x,)).xx.numpy()), np.triu(gram) / 511)


@pytest.mark.skipif(not RUN_AMX, reason="PRUNECCA_REQUIRE_AMX is not set; the stand-in was tested")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_instructions_give_the_bits_of_their_stand_in(dtype: torch.dtype) -> None:
    x, y = correlated(3000, 100, 70, dtype)
    ours, real = covariance((x, y)), at_level("amx", lambda: covariance((x, y)))
    for name in ("xx", "yy", "xy", "mean_x"):
        assert torch.equal(getattr(ours, name), getattr(real, name))


@pytest.mark.parametrize(
    ("values", "products"),
    [
        (lambda x: x, 6),
        (lambda x: x.bfloat16(), 1),
        (lambda x: x.half(), 4),  # two parts, and the product of the smaller ones counts
        (lambda x: x.bfloat16().float(), 1),
        (lambda x: x.sign(), 1),
        (lambda x: torch.cat([x[:, :32], x[:, 32:].bfloat16().float()], 1), (3 * 6 + 4 * 3 + 3 * 1) / 10),
        (lambda x: torch.cat([x[:, :48], 0 * x[:, 48:]], 1), 6 * 6 / 10),  # 4 of 10 blocks are zero
    ],
)
def test_as_many_products_as_the_values_need(values: Callable[[torch.Tensor], torch.Tensor], products: float) -> None:
    x = values(without_mean(1024, 64))
    blocks, steps = 10, 1024 // 32
    assert products_of(lambda: covariance((x,))) == blocks * steps * products
    assert error(covariance((x,)), x, x) < 1e-7


def test_products_that_are_left_out_change_no_bit() -> None:
    x = without_mean(1024, 40)
    x[:, :20] = x[:, :20].bfloat16().float()
    alone, beside = covariance((x[:, :16].contiguous(),)), covariance((x,))
    assert torch.equal(alone.xx, beside.xx[:16, :16])


def test_whole_numbers_are_exact() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randint(-400, 400, (600, 70), generator=g).float()
    x = torch.cat([x, -x])
    want = x.double().T @ x.double() / (len(x) - 1)
    assert torch.equal(covariance((x,)).xx, want)


@pytest.mark.parametrize("last", [1, 2, 31, 32, 33, 63, 64, 65, 255])
def test_rows_that_fill_part_of_a_tile(last: int) -> None:
    x, y = correlated(1024 + last, 33, 18)
    assert error(covariance((x, y)), x, y) < 1e-7


@pytest.mark.parametrize("kind", ["normal", "rectified", "two values", "wide", "heavy tails"])
@pytest.mark.parametrize("n", [449, 1023, 1024, 6000])
def test_error_on_other_distributions(kind: str, n: int) -> None:
    x = torch.randn(n, 40)
    if kind == "rectified":
        x = (x + 0.3).relu()
    elif kind == "two values":
        x = x.sign() * 1.2345678 + 0.1
    elif kind == "wide":
        x = x * torch.logspace(-9, 9, 40)
    elif kind == "heavy tails":
        x = x * x.abs().log2().exp2() ** 3
    # Two products that repeat are rounded the same way each time, at every level: avx2 leaves 6e-7 in 6000 rows.
    assert error(covariance((x, x)), x, x) < (2e-7 if kind == "two values" else 1e-7)


@pytest.mark.parametrize("exponent", [-70, -60, -50, 58, 61])
@pytest.mark.parametrize("partner", [False, True])
def test_what_tiles_would_flush_is_left_to_the_next_level(exponent: int, partner: bool) -> None:
    # Squares of 2^-70 are below the smallest normal number: tiles would make them zero. The other channels are ordinary.
    x = without_mean(1024, 20)
    x[:, 7] = torch.ldexp(x[:, 7], torch.tensor(exponent))
    other = without_mean(1024, 20) if partner else x
    ours = covariance((x, other))
    best = "avx512" if HAS_AMX else str(pc.build_info()["cpu_level_best"])
    theirs = at_level(best, lambda: covariance((x, other)))
    for name in ("xx", "yy", "xy"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("exponent", [-44, 57])
def test_the_ends_of_what_tiles_promise(exponent: int) -> None:
    x = without_mean(1024, 20).clamp(-1.9, 1.9)
    x[::64], x[1::64] = 1.0, -1.0
    scaled = torch.ldexp(x, torch.tensor(exponent))
    assert torch.equal(torch.ldexp(covariance((scaled,)).xx, torch.tensor(-2 * exponent)), covariance((x,)).xx) or (
        error(covariance((scaled,)), scaled, scaled) < 1e-7
    )


def test_rare_small_numbers_beside_zeros() -> None:
    x = without_mean(2048, 20).relu()
    x[:, 3] = 0
    x[1000, 3] = 2.0**-80  # its square is no float32 number, its products with the others are
    cov = covariance((x, x))
    assert error(cov, x, x) < 1e-7
    want = np.cov(x.double().numpy().T)[3]
    np.testing.assert_allclose(cov.xx[3].numpy(), want, rtol=1e-5, atol=0)


@pytest.mark.parametrize("flush", [False, True])
def test_the_flush_mode_of_a_thread_changes_nothing(flush: bool) -> None:
    x = without_mean(1024, 20)
    before = covariance((x,))
    torch.set_flush_denormal(flush)
    try:
        assert torch.equal(covariance((x,)).xx, before.xx)
    finally:
        torch.set_flush_denormal(False)
