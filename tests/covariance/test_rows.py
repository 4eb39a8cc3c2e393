"""Which rows count: masks and weights, against the rows gathered or repeated by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from streams import DTYPES, FIELDS, correlated, differences, error, streamed

import prunecca as pc
from prunecca.covariance import accumulate
from prunecca.covariance.accumulate import estimate_shift
from prunecca.covariance.view import View

# A layout, the shape of an activation without its channels, and where those go.
LAYOUTS = [
    ("nc", (700,), 1),
    ("nlc", (37, 29), 2),
    ("lnc", (29, 37), 2),
    ("ncl", (37, 29), 1),
    ("nchw", (19, 7, 9), 1),
    ("nchw", (5, 16, 16), 1),
    ("nhwc", (19, 7, 9), 3),
    ("ncdhw", (7, 3, 5, 4), 1),
    ("ndhwc", (7, 3, 5, 4), 4),
    ("chw", (21, 33), 0),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-7}


def batch(positions, axis, channels, dtype=torch.float32):
    """Rows of an activation, (rows, C), and the activation itself."""
    rows = int(np.prod(positions))
    x, _ = correlated(rows, channels, 1, dtype)
    return x, x.reshape(*positions, channels).movedim(-1, axis)


def by_datapoint(layout, positions, mask):
    """A flat mask as users have it: datapoints first, then the other positions."""
    letters = layout.replace("c", "")
    return mask.reshape(positions).movedim(max(0, letters.find("n")), 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "positions", "axis"), LAYOUTS)
def test_rows_that_do_not_count_take_no_part(level, dtype, layout, positions, axis):
    rows_x, x = batch(positions, axis, 17, dtype)
    rows_y, y = batch(positions, axis, 5, dtype)
    mask = torch.rand(len(rows_x)) < 0.6
    want = streamed((rows_x[mask], rows_y[mask], {}))
    x.movedim(axis, -1)[~mask.reshape(positions)] = torch.nan  # what is left out may hold anything
    cov = streamed((x, y, {"rows": by_datapoint(layout, positions, mask)}), layout=layout)
    assert cov.count == int(mask.sum())
    assert max(differences(cov, want).values()) < TOLERANCE.get(dtype, 4e-7)
    flat = streamed((x, y, {"rows": mask}), layout=layout)
    assert all(torch.equal(getattr(cov, name), getattr(flat, name)) for name in FIELDS)


@pytest.mark.parametrize(("channels_x", "channels_y"), [(1, 3), (64, 64), (300, 20)])
@pytest.mark.parametrize("count", [1, 16, 449, 4099])
def test_sizes_and_runs(level, channels_x, channels_y, count):
    x, y = correlated(500 + count, channels_x, channels_y)
    mask = torch.arange(500 + count) % 37 <= 20
    mask[:500] = True
    cov = streamed((x[:500], y[:500], {}), (x[500:], y[500:], {"rows": mask[500:]}), norms=False)
    assert error(cov, x[mask], y[mask]) < 1e-7


def test_planes_whose_rows_are_kept_in_runs_of_every_length(level):
    x = torch.randn(6, 20, 9, 11)
    for width in range(1, 12):
        mask = torch.zeros(6, 9, 11, dtype=torch.bool)
        mask[..., :width] = True
        cov = streamed((x, x, {"rows": mask}), norms=False)
        rows = x.movedim(1, -1)[mask]
        assert error(cov, rows, rows) < 1e-7


def test_datapoints_alone_may_be_named():
    x, mask = torch.randn(40, 7, 12), torch.rand(40) < 0.5
    for layout, given in (("nlc", x), ("lnc", x.movedim(0, 1)), ("ncl", x.movedim(2, 1))):
        cov = streamed((given, given, {"rows": mask.numpy()}), layout=layout)
        assert cov.count == 7 * int(mask.sum())
        assert max(differences(cov, streamed((x[mask], x[mask], {}), layout="nlc")).values()) < 2e-7


@pytest.mark.parametrize("layout", ["nlc", "nchw"])
def test_a_mask_of_all_changes_no_bit(layout):
    shape = (64, 9, 32) if layout == "nlc" else (64, 32, 3, 3)
    x, y = torch.randn(shape), torch.randn(shape)
    plain = streamed((x, y, {}), layout=layout)
    masked = streamed((x, y, {"rows": np.ones((64, 9) if layout == "nlc" else (64, 3, 3), int)}), layout=layout)
    assert all(torch.equal(getattr(plain, name), getattr(masked, name)) for name in FIELDS)


def test_batches_of_which_nothing_counts():
    x, y = torch.randn(600, 9) + 1e4, torch.randn(600, 4)
    nothing, one = torch.zeros(600, dtype=torch.bool), torch.arange(600) == 3
    acc = pc.StreamingCovariance(norms=True)
    acc.update(x * torch.nan, y, rows=nothing)
    assert acc.count == 0
    acc.update(x, y)
    acc.update(x * torch.inf, y, rows=nothing)
    assert acc.count == 600
    acc.update(x, y, rows=one)
    assert acc.count == 601
    want = streamed((x.double(), y.double(), {}), (x[3:4].double(), y[3:4].double(), {}))
    assert max(differences(acc.finalize(), want).values()) < 2e-7


def test_the_first_rows_may_come_late():
    x = torch.randn(300, 5, dtype=torch.float64) + 1e6
    late = pc.StreamingCovariance()
    late.update(x, rows=torch.zeros(300, dtype=torch.bool))
    late.update(x)
    want = np.cov(x.numpy() - 1e6, rowvar=False)
    assert np.linalg.norm(late.finalize().xx.numpy() - want) < 1e-12 * np.linalg.norm(want)


def test_candidates_one_by_one():
    x, ys, mask = torch.randn(50, 6, 8), [torch.randn(50, 6, 3), torch.randn(50, 6, 4)], torch.rand(50, 6) < 0.5
    acc = pc.StreamingCovariance()
    for _ in range(2):
        acc.update_reference(x, layout="nlc", rows=mask)
        for k, y in enumerate(ys):
            acc.update_candidate(k, x, y, layout="nlc", rows=mask)
    for cov, y in zip(acc.finalize(), ys, strict=True):
        assert cov.count == 2 * int(mask.sum())
        assert error(cov, x[mask].repeat(2, 1), y[mask].repeat(2, 1)) < 1e-7


def test_a_batch_in_parts_keeps_its_rows(monkeypatch):
    x, mask, weights = torch.randn(40, 10, 30), torch.rand(40, 10) < 0.5, torch.rand(40, 10)
    whole = streamed((x, x, {"rows": mask}), layout="nlc")
    weighted = streamed((x, x, {"weights": weights}), layout="nlc")
    monkeypatch.setattr(accumulate, "_CALL_BYTES", 1 << 12)
    assert max(differences(streamed((x, x, {"rows": mask}), layout="nlc"), whole).values()) < 2e-7
    assert max(differences(streamed((x, x, {"weights": weights}), layout="nlc"), weighted).values()) < 1e-12


def test_squares_that_float64_does_not_hold_are_looked_for_in_the_rows_that_count():
    x, mask = torch.randn(100, 4, dtype=torch.float64), torch.arange(100) < 60
    acc = pc.StreamingCovariance()
    acc.update(x)
    big = x * 1e180
    big[60:] = torch.inf
    acc.update(big, rows=mask)
    assert acc.count == 160
    with pytest.raises(ValueError, match="x holds NaN or infinity, first in channel 0"):
        acc.update(big, rows=~mask)
    assert acc.count == 160


def test_what_a_device_would_be_given():
    x, mask = torch.randn(30, 6, 5, 4), torch.rand(30, 5, 4) < 0.4
    view = View.of(x, "x", "nchw", rows=mask)
    assert view.rows == int(mask.sum())
    gathered = view.gathered(view.kept)
    assert torch.equal(gathered.tensor, x.movedim(1, -1)[mask])
    assert gathered.positions() == view.positions() == (30, 5, 4)


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (torch.ones(30, dtype=torch.bool), ValueError, r"rows has shape \(30,\) for an activation of shape \(8, 5, 6\); expected \(8,\) for datapoints, \(8, 5\) or \(40,\)"),
        (torch.ones(5, 8, dtype=torch.bool), ValueError, r"rows has shape \(5, 8\)"),
        (torch.ones(8, 5), TypeError, "rows holds torch.float32; expected booleans, True for the rows that count"),
        (torch.full((8, 5), 2), TypeError, "rows holds torch.int64 with other numbers than 0 and 1; expected booleans"),
        (object(), TypeError, "rows is|rows holds"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit(rows, error, words):
    with pytest.raises(error, match=words):
        pc.StreamingCovariance().update(torch.randn(8, 5, 6), layout="nlc", rows=rows)


def test_the_layer_is_named():
    with pytest.raises(ValueError, match=r"^layer 'a': rows has shape \(3,\)"):
        pc.StreamingCovariance().update(torch.randn(8, 6), where="layer 'a'", rows=[True] * 3)


def test_the_shift_of_rows_that_count_is_taken_channel_by_channel() -> None:
    """Channels far apart in scale, each about its own mean: one deviation for all would round the small means away."""
    x = torch.randn(40, 50, 6, generator=torch.Generator().manual_seed(0))
    x *= torch.tensor([1.0, 1e-3, 1e3, 1e-6, 1.0, 1e-7])
    x += 20 * torch.tensor([1.0, 1e-3, 1e3, 1e-6, 1.0, 1e-7])
    rows = torch.rand(40, 50, generator=torch.Generator().manual_seed(1)) < 0.7
    shift, wide = estimate_shift(View.of(x, "x", "nlc", rows=rows))
    kept = x[rows].double()
    assert ((shift - kept.mean(0)).abs() < 0.2 * kept.std(0)).all()
    assert not wide
