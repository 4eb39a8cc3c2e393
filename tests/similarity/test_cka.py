"""Debiased CKA against its definition on N x N Gram matrices."""

from __future__ import annotations

import pytest
import reference
from representations import KINDS, covariance, degenerate

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", KINDS)
def test_debiased_cka_agrees_with_the_n_by_n_definition(kind: str) -> None:
    x, y = degenerate(kind)
    expected = reference.linear_cka(x, y, debiased=True)
    assert pc.linear_cka(covariance(x, y), debiased=True) == pytest.approx(expected, abs=1e-9)
    assert pc.linear_cka(x, y, debiased=True) == pytest.approx(expected, abs=1e-9)
