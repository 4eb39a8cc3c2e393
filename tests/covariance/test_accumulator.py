"""The accumulator: any batching, merging and order of candidates gives the whole; its state is small and can be saved."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import correlated, covariance, error

import prunecca as pc
from prunecca.covariance.accumulator import CovarianceAccumulator
from prunecca.covariance.view import View


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


def test_state_does_not_grow_with_the_data(tmp_path):
    sizes = []
    acc = pc.StreamingCovariance(norms=True)
    for n in range(3):
        acc.update(*correlated(2000, 10, 10))
        acc.save(tmp_path / str(n))
        sizes.append((tmp_path / str(n)).stat().st_size)
    assert max(sizes) - min(sizes) < 16  # the digits of the count


def test_empty_batches_change_nothing():
    x, y = correlated(300, 4, 4)
    acc = pc.StreamingCovariance()
    acc.update(x, y)
    acc.update(x[:0], y[:0])
    assert acc.count == 300


def test_finalize_is_always_a_list():
    x, y = correlated(300, 6, 4)
    acc = CovarianceAccumulator(norms=True)
    acc.add(View.of(x, "x"), [])
    assert acc.finalize() == []
    assert error(acc.alone(), x, x) < 1e-7
    with pytest.raises(ValueError, match="1 candidates were given; expected 0 as before"):
        acc.add(View.of(x, "x"), [View.of(y, "y")])
    acc = CovarianceAccumulator()
    acc.add(View.of(x, "x"), [View.of(y, "y")])
    (cov,) = acc.finalize()
    assert error(cov, x, y) < 1e-7


def test_the_public_face_unwraps_one_pair_alone():
    x, y = correlated(300, 6, 4)
    assert isinstance(covariance((x, y)), pc.Covariance)
    assert [type(cov) for cov in covariance((x, [y]))] == [pc.Covariance]
    acc = pc.StreamingCovariance()
    acc.update(x, y)
    with pytest.raises(ValueError, match="a list of candidates was given; expected one array or none as before"):
        acc.update(x, [y])


def test_rows_are_forgotten_and_shifts_are_not():
    x, y = correlated(900, 6, 4)
    acc = CovarianceAccumulator(norms=True)
    acc.add(View.of(x, "x"), [View.of(y, "y")])
    shifts = [member.shift.clone() for member in acc.members]
    expected = acc.finalize()[0]
    acc.forget_rows()
    assert acc.count == 0
    acc.add(View.of(x, "x"), [View.of(y, "y")])
    assert all(torch.equal(member.shift, shift) for member, shift in zip(acc.members, shifts, strict=True))
    found = acc.finalize()[0]
    assert torch.equal(found.xy, expected.xy)
    assert torch.equal(found.norms, expected.norms)


def test_a_candidate_before_its_reference_is_an_error():
    x = View.of(torch.randn(9, 3), "x", where="conv1")
    acc = CovarianceAccumulator()
    with pytest.raises(ValueError, match="conv1: candidate 0 came before the reference"):
        acc.add_candidate(0, x, x)
    acc.add_reference(x)
    with pytest.raises(ValueError, match="candidate 1 came before the reference or before candidate 0"):
        acc.add_candidate(1, x, x)


def test_an_array_becomes_a_view_once_per_update(monkeypatch):
    seen = []
    monkeypatch.setattr("prunecca.covariance.view.as_tensor", lambda x, name: seen.append(name) or x)
    acc = pc.StreamingCovariance()
    for n in (3, 600, 600):  # begun, centred anew, and in the middle of the stream
        acc.update(torch.randn(n, 4), [torch.randn(n, 2), torch.randn(n, 3)])
        assert seen == ["x", "candidate 0", "candidate 1"]
        seen.clear()
