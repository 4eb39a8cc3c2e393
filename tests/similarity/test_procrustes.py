"""Procrustes against SciPy's."""

from __future__ import annotations

import pytest
from representations import covariance, related
from scipy.spatial import procrustes as scipy_procrustes

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


def test_procrustes_agrees_with_scipy() -> None:
    x, y = related(200, 7, 7)
    assert pc.procrustes(covariance(x, y)) == pytest.approx(1 - scipy_procrustes(x, y)[2], abs=1e-12)
