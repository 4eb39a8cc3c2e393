"""Linear regression on either side."""

from __future__ import annotations

import pytest
import reference
from representations import covariance, related

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


def test_linear_regression_on_either_side() -> None:
    x, y = related(300, 8, 13)
    cov = covariance(x, y)
    assert pc.linear_regression(cov, target="x") == pytest.approx(reference.linear_regression(y, x), abs=1e-9)
