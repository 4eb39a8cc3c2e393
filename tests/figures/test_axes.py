"""Axes that hold whatever a metric gives: similarities up to 1, distances above, correlations below 0."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from prunecca.figures import comparison, style


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([0.2, 0.9], (0.0, 1.02)),
        ([-0.5, 1.0], (-0.52, 1.02)),
        ([0.1, 2.5], (0.0, 2.52)),
        ([float("nan")], (0.0, 1.02)),
    ],
)
def test_an_axis_holds_every_value(values: list[float], limits: tuple[float, float]) -> None:
    axes = Figure().subplots()
    style.unit_axis(axes, pd.Series(values))
    assert axes.get_ylim() == pytest.approx(limits)


@pytest.mark.parametrize(("values", "top"), [([0.0, 0.5], 1.04), ([0.0, 2.0], 2.08), ([float("nan")] * 2, 1.04)])
def test_a_picture_of_distances_cuts_none(values: list[float], top: float) -> None:
    table: Any = {"candidate": "a", "layer": ["1", "2"], "depth": [0, 1], "metric": "gulp", "value": values}
    axes = Figure().subplots()
    comparison.draw_comparison(pd.DataFrame(table), axes=axes)
    assert axes.get_ylim() == pytest.approx((0.0, top))
