"""StreamingCovariance: against a plain float64 pass, on every layout, dtype and SIMD level; its errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from streams import DTYPES, correlated, covariance, error, rows_of

import prunecca as pc


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "cx", "cy"), [(2, 1, 1), (300, 3, 16), (700, 17, 100), (1025, 64, 33), (600, 260, 40)])
def test_matches_float64(level, threads, dtype, n, cx, cy):
    x, y = correlated(n, cx, cy, dtype)
    cov = covariance((x[: n // 3], y[: n // 3]), (x[n // 3 :], y[n // 3 :]))
    # Half-precision values lie on a grid, on which few errors average out less well.
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-7}.get(dtype, 2e-7)
    assert error(cov, x, y) < tolerance
    assert cov.count == n
    torch.testing.assert_close(cov.mean_x, x.double().mean(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cx", "cy"), [(1, 1), (1, 3), (2, 8), (5, 5), (7, 1)])
@pytest.mark.parametrize("n", [4095, 4096, 4096 + 13])
def test_many_narrow_rows_are_taken_several_at_once(level, threads, dtype, cx, cy, n):
    x, y = correlated(n, cx, cy, dtype)
    cov = covariance((x, y))
    assert error(cov, x, y) < {torch.float64: 1e-13, torch.float32: 1e-7}.get(dtype, 2e-7)
    torch.testing.assert_close(cov.mean_x, x.double().mean(0), rtol=1e-6, atol=1e-6)
    apart = torch.zeros(n, cx + 1, dtype=dtype)[:, :cx].copy_(x)  # rows with a gap are taken one by one
    assert error(covariance((apart, y)), x, y) < {torch.float64: 1e-13, torch.float32: 1e-7}.get(dtype, 2e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [4096, (1 << 16) + 2053])
def test_single_channels_are_vectors(level, threads, dtype, n):
    x, ys = correlated(n, 1, 3, dtype)
    candidates = [ys[:, k : k + 1].clone() + k for k in range(3)]  # each with memory of its own
    acc = pc.StreamingCovariance(norms=False)
    acc.update(x, candidates)
    first = acc.finalize()
    for y, cov in zip(candidates, first, strict=True):
        assert error(cov, x, y) < (1e-13 if dtype == torch.float64 else 1e-7)
        torch.testing.assert_close(cov.mean_y, y.double().mean(0), rtol=1e-6, atol=1e-6)
    again = pc.StreamingCovariance(norms=False)
    again.update(x, candidates)
    assert all(
        torch.equal(a.xy, b.xy) and torch.equal(a.yy, b.yy) for a, b in zip(first, again.finalize(), strict=True)
    )
    for row in (0, n - 1):
        bad = candidates[1].clone()
        bad[row] = -torch.inf
        with pytest.raises(ValueError, match="candidate 1 holds NaN or infinity, first in channel 0"):
            acc.update(x, [candidates[0], bad, candidates[2]])
    acc.update(x, candidates)
    assert acc.finalize()[0].count == 2 * n


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [7, 531])
def test_every_width_of_the_last_panel(level, dtype, rows):
    drawn, _ = correlated(rows, 33 + 48, 1, dtype)
    for width in range(1, 17):  # channels beyond the last whole sixteen are multiplied another way
        x, y = drawn[:, : 16 + width], drawn[:, 33 : 33 + 32 + width % 16]
        cov = covariance((x, y), (x, y))
        twice = torch.cat([x, x]), torch.cat([y, y])
        assert error(cov, *twice) < (1e-13 if dtype == torch.float64 else 1.5e-7), width


@pytest.mark.parametrize(("row", "channel"), [(0, 2), (1, 1), (8190, 0), (8191, 2)])
def test_the_first_channel_of_narrow_rows_that_is_not_finite(level, row, channel):
    x, y = correlated(8192, 3, 2)
    acc = pc.StreamingCovariance(norms=False)
    acc.update(x, y)
    before = acc.finalize()
    bad = x.clone()
    bad[row, channel] = torch.nan
    bad[0, 2] = torch.inf
    with pytest.raises(ValueError, match=f"x holds NaN or infinity, first in channel {channel}"):
        acc.update(bad, y)
    after = acc.finalize()
    assert all(
        torch.equal(getattr(before, name), getattr(after, name)) for name in ("mean_x", "mean_y", "xx", "yy", "xy")
    )


@pytest.mark.parametrize("c", [17, 23, 24, 25, 40])
def test_the_last_channels_fill_part_of_a_panel(level, threads, c):
    x, y = correlated(700, c, c + 9)
    assert error(covariance((x, y)), x, y) < 1e-7


def test_large_states_share_blocks_among_threads(level, threads):
    x, y = correlated(530, 600, 550)
    assert error(covariance((x, y)), x, y) < 1e-7


def test_large_states_take_tiles_in_groups(level):
    # 400 + 16 channels: tiles of 256 rows are packed by nines, and the last group is not whole.
    x, y = correlated(2900, 400, 16)
    before = torch.get_num_threads()
    try:
        found = []
        for count in (1, 5):
            torch.set_num_threads(count)
            found.append(covariance((x, y), norms=True))
    finally:
        torch.set_num_threads(before)
    assert error(found[0], x, y) < 1e-7
    a, b = (((t - t.mean(0)) ** 2).sum(1) for t in map(rows_of, (x, y)))
    np.testing.assert_allclose(found[0].norms.numpy(), [a @ a, b @ b, a @ b], rtol=1e-6)
    for name in ("xx", "xy", "yy", "norms"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
        lambda x: x[:, :, ::2, 1:],
        lambda x: x[:, ::3],
        lambda x: x[1::2],
        lambda x: x.double(),
        lambda x: x.half(),
        lambda x: x.bfloat16().to(memory_format=torch.channels_last),
        lambda x: x.mean(3),
        lambda x: x[:, :, 0, 0],
        lambda x: x[:, 5:6],
        lambda x: x[:, :, :2, :2].contiguous(),
        lambda x: x[:1].expand(12, -1, -1, -1),
    ],
)
def test_every_layout_is_read_in_place(level, view):
    x = view(torch.randn(12, 37, 9, 11) + 2)
    y = torch.randn_like(x, dtype=torch.float32)
    acc = pc.StreamingCovariance()
    acc.update(x, y, layout="auto")
    assert error(acc.finalize(), x, y) < 1e-7


def test_unaligned_memory(level):
    memory = torch.randn(400 * 20 + 1)
    x = memory[1:].view(400, 20)
    assert error(covariance((x, x)), x, x) < 1e-7


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((30, 20), "nc"),
        ((8, 20, 30), "ncl"),
        ((8, 30, 20), "nlc"),
        ((30, 8, 20), "lnc"),
        ((4, 5, 6, 20), "nhwc"),
        ((4, 5, 20, 6), "nhcw"),
        ((20, 9, 7), "chw"),
        ((3, 20, 4, 5, 2), "ncdhw"),
        ((3, 4, 5, 2, 20), "ndhwc"),
    ],
)
@pytest.mark.parametrize("strided", [False, True])
def test_a_letter_for_each_dimension(shape, layout, strided):
    x = torch.randn(*shape)
    if strided:
        x = torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]
    acc = pc.StreamingCovariance()
    acc.update(x, layout=layout)
    rows = x.movedim(layout.index("c"), -1).reshape(-1, 20)
    assert error(acc.finalize(), rows, rows) < 1e-7


def test_means_of_a_thousand_deviations_cost_nothing(level):
    x, y = correlated(5000, 24, 24)
    offset = 1000 * x.std(0)
    assert error(covariance((x + offset, y)), x + offset, y) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rectified_activations_are_not_rounded_all_the_same_way(level, dtype):
    # Half of the values are the same zero: rounding errors that repeat would not average out over the tiles.
    x = torch.randn(20000, 48).add_(0.3).relu_().to(dtype)
    assert error(covariance((x, x)), x, x) < (2e-8 if dtype == torch.float32 else 6e-8)


def test_float64_precision_on_float32_input():
    x, y = correlated(3000, 20, 30)
    cov = covariance((x, y), precision="float64")
    assert error(cov, x, y) < 1e-13
    assert cov.precision == "float64"
    assert covariance((x, y)).precision == "float32"


def test_norms_are_fourth_moments(level, threads):
    x, y = correlated(700, 20, 9)
    cov = covariance((x[:300], y[:300]), (x[300:], y[300:]), norms=True)
    a, b = (rows_of(t) - rows_of(t).mean(0) for t in (x, y))
    a, b = (a**2).sum(1), (b**2).sum(1)
    np.testing.assert_allclose(cov.norms.numpy(), [a @ a, b @ b, a @ b], rtol=1e-6)


def test_alone_is_with_itself():
    x, _ = correlated(300, 12, 1)
    cov = covariance((x,))
    torch.testing.assert_close(cov.xx, cov.xy, rtol=0, atol=0)
    torch.testing.assert_close(cov.xx, cov.xx.T, rtol=0, atol=0)


def test_same_input_same_bits(level, threads):
    x, y = correlated(3000, 300, 40)
    first, second = covariance((x, y)), covariance((x, y))
    assert torch.equal(first.xx, second.xx)
    assert torch.equal(first.xy, second.xy)


def test_numpy_and_read_only_memory_maps(tmp_path):
    x, y = correlated(300, 6, 4)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.equal(covariance((mapped, y.numpy())).xy, covariance((x, y)).xy)


def test_float16_denormals_and_extremes_are_widened_exactly(level):
    bits = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.float16)
    x = bits[torch.isfinite(bits)][:, None]
    cov = covariance((x, x), precision="float64")
    assert cov.mean_x.item() == pytest.approx(x.double().mean().item(), rel=1e-12, abs=1e-12)
    assert cov.xx.item() == pytest.approx(x.double().var().item(), rel=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_named_and_leave_the_state(level, bad):
    x, y = correlated(600, 20, 20)
    acc = pc.StreamingCovariance()
    acc.update(x, y)
    before = acc.finalize()
    poisoned = y.clone()
    poisoned[431, 7] = bad
    with pytest.raises(ValueError, match="conv3, batch 5: y holds NaN or infinity, first in channel 7"):
        acc.update(x, poisoned, where="conv3, batch 5")
    after = acc.finalize()
    assert torch.equal(before.xy, after.xy)
    assert after.count == 600


def test_wrong_input_is_named():
    acc = pc.StreamingCovariance()
    x = torch.randn(10, 4)
    with pytest.raises(ValueError, match="expected 2 dimensions or more, such as 'nc', 'ncl'"):
        acc.update(torch.randn(10))
    with pytest.raises(ValueError, match="say which: layout='nlc' or layout='ncl'"):
        acc.update(torch.randn(10, 4, 3))
    with pytest.raises(ValueError, match="expected 3 dimensions, by layout 'nlc'"):
        acc.update(x, layout="nlc")
    with pytest.raises(ValueError, match="layout is 'nll'; expected 'infer', or a letter for each dimension"):
        acc.update(torch.randn(10, 4, 3), layout="nll")
    with pytest.raises(TypeError, match="x has dtype"):
        acc.update(torch.ones(10, 4, dtype=torch.int64))
    with pytest.raises(TypeError, match="x is a str"):
        acc.update("activations")
    with pytest.raises(ValueError, match="at least 2 datapoints, but 0 were given"):
        acc.finalize()
    with pytest.raises(ValueError, match="precision is 'half'"):
        pc.StreamingCovariance(precision="half")
    with pytest.raises(ValueError, match="same datapoints"):
        acc.update(x, torch.randn(9, 4))
    with pytest.raises(ValueError, match="no channels"):
        acc.update(torch.randn(10, 0))
    acc.update(x, x)
    with pytest.raises(ValueError, match="y has 5 channels; expected 4"):
        acc.update(x, torch.randn(10, 5))
    with_two = pc.StreamingCovariance()
    with_two.update(x, [x, x])
    with pytest.raises(ValueError, match="1 candidates were given"):
        with_two.update(x, [x])
