"""StreamingCovariance: against a plain float64 pass, on every layout, dtype and SIMD level; its laws; its errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prunecca as pc

LEVELS = ["baseline", "avx2", "avx512"]
LEVELS = LEVELS[: LEVELS.index(pc.build_info()["cpu_level_best"]) + 1]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(params=LEVELS)
def level(request):
    before = pc.cpu_level()
    pc.set_cpu_level(request.param)
    yield request.param
    pc.set_cpu_level(before)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def rows_of(x: torch.Tensor) -> np.ndarray:
    """The (N * positions, C) float64 matrix that an activation stands for."""
    matrix = x.movedim(1, -1).reshape(-1, x.shape[1]) if x.ndim > 2 else x
    return matrix.double().numpy()


def reference(x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    a, b = rows_of(x), rows_of(y)
    a, b = a - a.mean(0), b - b.mean(0)
    n = len(a) - 1
    return {"xx": a.T @ a / n, "yy": b.T @ b / n, "xy": a.T @ b / n}


def error(cov: pc.Covariance, x: torch.Tensor, y: torch.Tensor) -> float:
    """Largest relative error; of xy relative to the norms of xx and yy, which bound it."""
    want = reference(x, y)
    norm = {name: np.linalg.norm(want[name]) for name in ("xx", "yy")}
    scale = {**norm, "xy": np.sqrt(norm["xx"] * norm["yy"])}
    return max(np.linalg.norm(getattr(cov, name).numpy() - want[name]) / scale[name] for name in want)


def correlated(n: int, cx: int, cy: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, cx) * torch.linspace(0.5, 2, cx) + torch.randn(cx)
    y = x @ torch.randn(cx, cy) / cx**0.5 + 0.5 * torch.randn(n, cy) - 1
    return x.to(dtype), y.to(dtype)


def covariance(*batches, **options) -> pc.Covariance:
    acc = pc.StreamingCovariance(**options)
    for batch in batches:
        acc.update(*batch)
    return acc.finalize()


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


@pytest.mark.parametrize(("row", "channel"), [(0, 2), (1, 1), (8190, 0), (8191, 2)])
def test_the_first_channel_of_narrow_rows_that_is_not_finite(level, row, channel):
    x, y = correlated(8192, 3, 2)
    acc = pc.StreamingCovariance(norms=False)
    acc.update(x, y)
    before = acc.finalize()
    bad = x.clone()
    bad[row, channel] = torch.nan
    bad[0, 2] = torch.inf
    with pytest.raises(
        ValueError, match=f"x holds NaN, infinity or values too large to square, first in channel {channel}"
    ):
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
    assert error(covariance((x, y)), x, y) < 1e-7


def test_unaligned_memory(level):
    memory = torch.randn(400 * 20 + 1)
    x = memory[1:].view(400, 20)
    assert error(covariance((x, x)), x, x) < 1e-7


def test_nlc_layout():
    x = torch.randn(8, 30, 20)
    acc = pc.StreamingCovariance()
    acc.update(x, layout="nlc")
    assert error(acc.finalize(), x.reshape(-1, 20), x.reshape(-1, 20)) < 1e-7


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


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 900), max_size=4), c=st.integers(1, 40))
def test_any_batching_gives_the_whole(cuts, c):
    x, y = correlated(900, c, 7)
    edges = [0, *sorted(cuts), 900]
    batches = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]
    assert error(covariance(*batches), x, y) < 1e-7


@pytest.mark.parametrize("cuts", [[3], [254, 257], [0], [0, 300], [200, 203, 500], [1, 2, 3, 600]])
@pytest.mark.parametrize("apart", [False, True])
def test_few_first_rows_do_not_cost_accuracy(cuts, apart):
    """A mean of three rows may lie deviations away; with one channel nothing averages the rounding out."""
    for seed in range(20):
        torch.manual_seed(seed)
        x, y = correlated(900, 1, 7)
        z = x @ torch.randn(1, 3) + torch.randn(900, 3)
        acc = pc.StreamingCovariance(norms=True)
        for a, b in itertools.pairwise([0, *cuts, 900]):
            if not apart:
                acc.update(x[a:b], [y[a:b], z[a:b]])
                continue
            acc.update_reference(x[a:b])
            for k, candidate in enumerate((y, z)):
                acc.update_candidate(k, x[a:b], candidate[a:b])
        whole = pc.StreamingCovariance(precision="float64", norms=True)
        whole.update(x, [y, z])
        for candidate, cov, exact in zip((y, z), acc.finalize(), whole.finalize(), strict=True):
            assert error(cov, x, candidate) < 1e-7
            torch.testing.assert_close(cov.norms, exact.norms, rtol=1e-6, atol=0)


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(1, 799), norms=st.booleans(), lists=st.booleans())
def test_merged_is_whole(cut, norms, lists):
    x, y = correlated(800, 11, 5, torch.float64)
    x[cut:] += 40  # so that the two shifts differ
    pack = (lambda t: [t, 2 * t]) if lists else (lambda t: t)
    parts = []
    for rows in (slice(0, cut), slice(cut, 800), slice(0, 800)):
        acc = pc.StreamingCovariance(norms=norms)
        acc.update(x[rows], pack(y[rows]))
        parts.append(acc)
    head, tail, whole = parts
    empty = pc.StreamingCovariance(norms=norms)
    empty.merge(head)
    empty.merge(tail)
    merged, expected = empty.finalize(), whole.finalize()
    for m, w in zip(merged, expected, strict=True) if lists else [(merged, expected)]:
        assert m.count == 800
        torch.testing.assert_close(m.xx, w.xx, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(m.xy, w.xy, rtol=1e-10, atol=1e-10)
        if norms:
            torch.testing.assert_close(m.norms, w.norms, rtol=1e-9, atol=1e-9)
    assert head.count == cut


def test_norms_are_fourth_moments(level, threads):
    x, y = correlated(700, 20, 9)
    cov = covariance((x[:300], y[:300]), (x[300:], y[300:]), norms=True)
    a, b = (rows_of(t) - rows_of(t).mean(0) for t in (x, y))
    a, b = (a**2).sum(1), (b**2).sum(1)
    np.testing.assert_allclose(cov.norms.numpy(), [a @ a, b @ b, a @ b], rtol=1e-6)


def test_candidates_together_equal_candidates_apart():
    x, y = correlated(640, 18, 9)
    together = covariance((x, [y, x, 2 * y]))
    apart = pc.StreamingCovariance()
    for rows in (slice(0, 320), slice(320, 640)):
        apart.update_reference(x[rows])
        for k, candidate in enumerate((y, x, 2 * y)):
            apart.update_candidate(k, x[rows], candidate[rows])
    for a, b, candidate in zip(together, apart.finalize(), (y, x, 2 * y), strict=True):
        assert error(a, x, candidate) < 1e-7
        assert error(b, x, candidate) < 1e-7


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


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_values_that_are_not_finite_are_named_and_leave_the_state(level, bad):
    x, y = correlated(600, 20, 20)
    acc = pc.StreamingCovariance()
    acc.update(x, y)
    before = acc.finalize()
    poisoned = y.clone()
    poisoned[431, 7] = bad
    with pytest.raises(
        ValueError, match="conv3, batch 5: y holds NaN, infinity or values too large to square, first in channel 7"
    ):
        acc.update(x, poisoned, where="conv3, batch 5")
    after = acc.finalize()
    assert torch.equal(before.xy, after.xy)
    assert after.count == 600


def test_saved_is_loaded(tmp_path):
    x, y = correlated(400, 8, 5)
    acc = pc.StreamingCovariance(norms=True)
    acc.update(x[:200], y[:200])
    acc.save(tmp_path / "state.safetensors")
    loaded = pc.StreamingCovariance.load(tmp_path / "state.safetensors")
    for each in (acc, loaded):
        each.update(x[200:], y[200:])
    acc.finalize().save(tmp_path / "cov.safetensors")
    cov = pc.Covariance.load(tmp_path / "cov.safetensors")
    assert torch.equal(cov.xy, loaded.finalize().xy)
    assert torch.equal(cov.norms, loaded.finalize().norms)
    assert (cov.count, cov.precision) == (400, "float64")  # both batches were short
    with pytest.raises(ValueError, match="holds no StreamingCovariance"):
        pc.StreamingCovariance.load(tmp_path / "cov.safetensors")
    (tmp_path / "not.safetensors").write_bytes(b"text")
    with pytest.raises(ValueError, match="is not a safetensors file that holds a Covariance"):
        pc.Covariance.load(tmp_path / "not.safetensors")


def test_wrong_input_is_named():
    acc = pc.StreamingCovariance()
    x = torch.randn(10, 4)
    with pytest.raises(ValueError, match=r"expected \(N, C\)"):
        acc.update(torch.randn(10))
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


def test_empty_batches_change_nothing():
    x, y = correlated(300, 4, 4)
    acc = pc.StreamingCovariance()
    acc.update(x, y)
    acc.update(x[:0], y[:0])
    assert acc.count == 300


def test_state_does_not_grow_with_the_data(tmp_path):
    sizes = []
    acc = pc.StreamingCovariance(norms=True)
    for n in range(3):
        acc.update(*correlated(2000, 10, 10))
        acc.save(tmp_path / str(n))
        sizes.append((tmp_path / str(n)).stat().st_size)
    assert max(sizes) - min(sizes) < 16  # the digits of the count
