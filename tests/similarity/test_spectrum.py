"""The eigendecomposition of a representation: once for all metrics and partners, never stale, forgotten in time."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from representations import covariance, related

import prunecca as pc
from prunecca.similarity.spectrum import correlation_spectra, correlation_spectrum, covariance_spectra

pytestmark = pytest.mark.usefixtures("one_thread")


def count_eigh(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The matrices that are decomposed from now on."""
    calls: list[Any] = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: calls.append(m) or eigh(m))
    return calls


def test_each_representation_is_decomposed_once_as_it_is_and_once_as_correlations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = related(200, 10, 7)
    cov = covariance(x, y)
    calls = count_eigh(monkeypatch)

    def values() -> list[float]:
        return [pc.cca(cov).mean, pc.pwcca(cov).mean, pc.svcca(cov).mean, pc.linear_regression(cov)]

    before = values()
    assert len(calls) == 4
    cov.xx.copy_(torch.from_numpy(reference.covariance(2 * x, y)["xx"]))  # written to: not to be remembered
    cov.xy.mul_(2)
    assert values() == pytest.approx(before, abs=1e-12)
    assert len(calls) == 6


def test_candidates_of_one_accumulator_share_the_spectrum_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    acc = pc.StreamingCovariance()
    acc.update(torch.randn(100, 5), [torch.randn(100, 4) for _ in range(3)])
    covariances = acc.finalize()
    calls = count_eigh(monkeypatch)
    assert len({id(correlation_spectrum(cov, "x")) for cov in covariances}) == 1
    assert len(calls) == 1


def test_other_constant_channels_make_another_spectrum() -> None:
    """The mean decides which channels are constant, and is not part of the matrix."""
    cov = covariance(*related(200, 5, 5))
    assert pc.cca(cov).kept_x == 5
    mean = cov.mean_x.clone()
    mean[2] = 1e15
    assert pc.cca(dataclasses.replace(cov, mean_x=mean)).kept_x == 4
    assert pc.cca(cov).kept_x == 5


def test_a_representation_beside_itself_is_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    acc = pc.StreamingCovariance()
    acc.update(torch.randn(100, 5))
    calls = count_eigh(monkeypatch)
    assert pc.cca(acc.finalize()).mean == pytest.approx(1)
    assert len(calls) == 1


def test_a_replaced_covariance_keeps_the_spectra_of_the_tensors_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    cov = covariance(*related(200, 10, 7))
    x, y = covariance_spectra(cov)
    calls = count_eigh(monkeypatch)
    assert covariance_spectra(dataclasses.replace(cov, xy=2 * cov.xy)) == (x, y)
    assert calls == []
    other = dataclasses.replace(cov, yy=4 * cov.yy)
    assert covariance_spectra(other)[0] is x
    torch.testing.assert_close(covariance_spectra(other)[1].values, 4 * y.values)
    assert covariance_spectra(cov)[1] is y, "each has its own"
    assert len(calls) == 1


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda cov: pickle.loads(pickle.dumps(cov))])
def test_a_copied_covariance_is_never_stale(again: Callable[[Any], Any]) -> None:
    cov = covariance(*related(200, 10, 7))
    cov.xx.mul_(1.0)  # a written tensor has another version than its copy
    values = covariance_spectra(cov)[0].values.clone()
    twin = again(cov)
    assert (twin.count, twin.precision) == (cov.count, cov.precision)
    torch.testing.assert_close(covariance_spectra(twin)[0].values, values)
    for _ in range(3):
        twin.xx.mul_(2)
        values *= 2
        torch.testing.assert_close(covariance_spectra(twin)[0].values, values)
    torch.testing.assert_close(covariance_spectra(cov)[0].values, torch.linalg.eigvalsh(cov.xx).flip(-1))


def test_spectra_are_forgotten_with_their_covariance() -> None:
    cov = covariance(*related(50, 5, 5))
    pc.cca(cov)
    known = [weakref.ref(spectrum) for spectrum in correlation_spectra(cov)]
    del cov
    gc.collect()
    assert [spectrum() for spectrum in known] == [None, None]


def test_a_matrix_that_is_not_finite_is_one_sentence() -> None:
    cov = covariance(*related(50, 5, 5))
    cov.xx[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"5, 5\) has no eigendecomposition; expected finite numbers"):
        pc.cca(cov)
