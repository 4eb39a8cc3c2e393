"""Covariances and metrics of any arrays, against float64 NumPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import reference
import torch
from fuzzing import DTYPES, LAYOUTS, SIZES, Drawn, arrays, as_given, fill, fuzz, is_a_sentence, put
from hypothesis import strategies as st

import prunecca as pc
from prunecca.errors import FewRows

# Magnitudes that occur in one array, the squares of some beyond float32.
SCALES = (1.0, 1e-3, 1e4, 1e-15, 1e15, 1e-30, 1e30)
METRICS = ("cca", "svcca", "pwcca", "linear_cka", "nbs", "procrustes", "linear_regression")
counts = st.sampled_from((*SIZES, 64, 449, 600))
channels = st.sampled_from(SIZES[1:])
positions = st.lists(st.sampled_from((1, 2, 3)), max_size=2)


@st.composite
def batches(draw):
    """Batches of x and y: (layout, [(x, y), ...]) of one number of channels and positions each."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grid, widths = tuple(draw(positions)), (draw(channels), draw(channels))
    layout = draw(st.sampled_from(("auto", "nlc"))) if len(grid) == 1 else "auto"
    scales, kinds = draw(st.lists(st.sampled_from(SCALES), min_size=2, max_size=2)), ("normal", "whole", "constant")
    made = []
    for _ in range(draw(st.integers(1, 3))):
        rows = draw(counts)
        pair = []
        for width, scale in zip(widths, scales, strict=True):
            shape = (rows, *grid, width) if layout == "nlc" else (rows, width, *grid)
            values = fill(random, shape, draw(st.sampled_from(kinds)), scale)
            values = put(random, values, tuple(draw(st.lists(st.sampled_from((0.0, -0.0, 3 * scale)), max_size=2))))
            dtype = draw(st.sampled_from(DTYPES if 1e-4 < scale < 1e5 else DTYPES[1:]))
            pair.append(as_given(values, dtype, draw(st.sampled_from(LAYOUTS))))
        made.append(pair)
    return layout, made


def joined(made: list[list[Drawn]], side: int, layout: str) -> np.ndarray:
    return np.concatenate([reference.rows(pair[side].values, -1 if layout == "nlc" else 1) for pair in made])


@fuzz(given_batches=batches(), precision=st.sampled_from(("float32", "float64")), candidates=st.booleans())
def test_streams(given_batches, precision, candidates):
    layout, made = given_batches
    stream = pc.StreamingCovariance(precision=precision)
    for x, y in made:
        stream.update(x.array, [y.array, x.array] if candidates else y.array, layout=layout)
    a, b = joined(made, 0, layout), joined(made, 1, layout)
    assert stream.count == len(a)
    if len(a) < 2:
        with pytest.raises(ValueError, match="at least 2 datapoints"):
            stream.finalize()
        return
    found = stream.finalize()
    if candidates:
        assert torch.equal(found[1].xx, found[1].yy)
        found = found[0]
    right = reference.covariance(a, b)
    largest_x, largest_y = np.abs(a).max(0), np.abs(b).max(0)
    error = 1e-12 if found.precision == "float64" else 2e-6
    for name, left, up in (
        ("xx", largest_x, largest_x),
        ("yy", largest_y, largest_y),
        ("xy", largest_x, largest_y),
    ):
        difference = np.abs(getattr(found, name).numpy() - right[name])
        assert (difference <= error * np.outer(left, up)).all(), name
    assert (np.abs(found.mean_x.numpy() - right["mean_x"]) <= 1e-6 * largest_x).all()
    assert (np.abs(found.mean_y.numpy() - right["mean_y"]) <= 1e-6 * largest_y).all()


@fuzz(
    batch=arrays(st.tuples(counts, channels), SCALES[:3], (np.nan, np.inf, -np.inf)),
    before=st.booleans(),
)
def test_streams_refuse_what_is_not_finite(batch, before):
    stream = pc.StreamingCovariance()
    first = torch.randn(7, batch.values.shape[1])
    if before:
        stream.update(first)
    if np.isfinite(batch.values).all():
        stream.update(batch.array)
        assert stream.count == len(batch.values) + 7 * before
        return
    with pytest.raises(ValueError, match="NaN or infinity") as refused:
        stream.update(batch.array)
    assert is_a_sentence(refused.value)
    assert stream.count == 7 * before
    if before:
        assert np.allclose(stream.finalize().xx.numpy(), np.cov(first.double().numpy().T), rtol=1e-9, atol=1e-12)


@st.composite
def pairs(draw, special=()):
    rows = draw(counts)
    shapes = st.tuples(st.just(rows), channels)
    return draw(arrays(shapes, (1.0, 1e-3, 100.0), special)), draw(arrays(shapes, (1.0, 10.0), special))


@fuzz(pair=pairs(), name=st.sampled_from(METRICS))
def test_metrics_are_in_range(pair, name):
    x, y = pair
    metric = getattr(pc, name)
    if len(x.values) < 2:
        with pytest.raises(ValueError, match="at least 2 datapoints") as refused:
            metric(x.array, y.array)
        assert is_a_sentence(refused.value)
        return
    value = metric(x.array, y.array)
    value = getattr(value, "mean", value)
    assert np.isnan(value) or -1e-9 <= value <= 1 + 1e-9
    dead = [np.ptp(side.values, 0).max() == 0 for side in (x, y)]
    assert np.isnan(value) == any(dead)


@st.composite
def well_conditioned(draw):
    """More rows than channels, all channels alike: every metric is defined and stable."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.sampled_from((30, 60, 90)))
    mixed = random.standard_normal((rows, 4))
    made = []
    for width in draw(st.tuples(*[st.sampled_from((1, 2, 5, 8))] * 2)):
        values = mixed @ random.standard_normal((4, width)) + 2 * random.standard_normal((rows, width))
        values = (values + 3 * random.standard_normal(width)) * draw(st.sampled_from((1.0, 0.01, 100.0)))
        layouts = tuple(name for name in LAYOUTS if name != "expanded")
        made.append(as_given(values, draw(st.sampled_from(DTYPES[2:])), draw(st.sampled_from(layouts))))
    return made


@fuzz(pair=well_conditioned())
def test_metrics_are_their_definitions(pair):
    x, y = pair
    a, b = x.values, y.values
    correlations = reference.cca(a, b, 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FewRows)
        assert pc.cca(x.array, y.array).mean == pytest.approx(correlations.mean(), abs=1e-6)
        assert pc.pwcca(x.array, y.array).mean == pytest.approx(reference.pwcca(a, b, 1e-12), abs=1e-6)
        assert pc.linear_cka(x.array, y.array) == pytest.approx(reference.linear_cka(a, b), abs=1e-6)
        debiased = reference.linear_cka(a, b, debiased=True)
        assert pc.linear_cka(x.array, y.array, debiased=True) == pytest.approx(debiased, abs=1e-5)
        assert pc.nbs(x.array, y.array) == pytest.approx(reference.nbs(a, b), abs=1e-6)
        assert pc.linear_regression(x.array, y.array) == pytest.approx(reference.linear_regression(a, b), abs=1e-6)
