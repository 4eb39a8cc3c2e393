"""Names in pictures are drawn as they are written, and never read as mathematics or TeX."""

from __future__ import annotations

import matplotlib
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.text import Text

from prunecca.figures.comparison import draw_comparison
from prunecca.figures.heatmap import heatmap
from prunecca.figures.problem import control_figure, density_figure, dimension_figure, heat_map, metrics_figure
from prunecca.figures.study import accuracy_figure, similarity_figure
from prunecca.figures.style import as_svg, save

NAMES = [r"$\frac{$", "$x^2$", r"a\_b", "_hidden", "100%", "a\x1bb", "{[/x]}", "<b>&amp;"]
SHOWN = [r"$\frac{$", "$x^2$", r"a\_b", " _hidden", "100%", r"a\x1bb", "{[/x]}", "<b>&amp;"]


def table(**columns):
    rows = []
    for level in (0, 1):
        for control in (False, True)[: 1 + level]:
            rows += [
                {"replicate": 0, "level": level, "control": control, "layer": name, "kind": "fc", "depth": depth}
                for depth, name in enumerate(NAMES)
            ]
    return pd.DataFrame(rows).assign(problem="$p_1$", metric=r"$\m$", value=0.5, density=0.5, **columns)


@pytest.fixture(autouse=True)
def careless_settings():
    """A matplotlibrc that has every text set by TeX."""
    with matplotlib.rc_context({"text.usetex": True}):
        yield


def texts(figure):
    return {text.get_text() for text in figure.findobj(Text)}


@pytest.mark.parametrize(
    ("draw", "shown"),
    [
        (lambda: heat_map(table(), r"$\m$"), SHOWN),
        (lambda: dimension_figure(table(), table(dimension=2.0, error=0.1), r"$\m$"), SHOWN),
        (lambda: density_figure(table()), SHOWN),
        (lambda: control_figure(table(), r"$\m$"), SHOWN),
        (lambda: metrics_figure(table()), [*SHOWN, r"$\m$"]),
        (lambda: similarity_figure(table(), r"$\m$"), [*SHOWN, "$p_1$", r"$\m$"]),
        (lambda: accuracy_figure(table(test_accuracy=0.9)), ["$p_1$"]),
    ],
)
def test_every_picture_draws_names_as_they_are(tmp_path, draw, shown):
    figure = draw()
    assert as_svg(figure).startswith(b"<?xml")
    assert set(shown) <= texts(figure)
    save(figure, tmp_path / "x", kinds=["png"])


def test_layers_and_candidates_of_a_comparison_are_drawn_as_they_are(tmp_path):
    rows = [
        {"candidate": name, "layer": layer, "depth": depth, "metric": "$m", "value": 0.5}
        for name in NAMES[:7]
        for depth, layer in enumerate(NAMES)
    ]
    draw_comparison(pd.DataFrame(rows), path=tmp_path / "x.svg")
    source = (tmp_path / "x.svg").read_text()
    for name in (r"$\frac{$", "$x^2$", r"a\_b", " _hidden", "100%", "$m"):
        assert f"<!-- {name} -->" in source
    for few in (1, 2):
        draw_comparison(pd.DataFrame(rows[: 8 * few]), path=tmp_path / "x.pdf")


@pytest.mark.parametrize("draw", [heatmap, draw_comparison])
def test_a_figure_that_is_shown_later_draws_names_as_they_are(tmp_path, draw):
    names = NAMES[:3]
    rows = [
        {"candidate": "$c", "layer": a, "layer_y": b, "depth": i, "depth_y": j, "metric": "$m", "value": 0.5}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]
    axes = draw(pd.DataFrame(rows))
    axes.figure.savefig(tmp_path / "x.png")  # by the user, with the settings of the user
    assert {"$x^2$", r"$\frac{$", "$m"} <= texts(axes.figure)
    pyplot.close(axes.figure)
