"""The pictures of one problem, from small tables made here."""

import numpy as np
import pytest
from reports import LAYERS, study_tables

from prunecca.figures.problem import control_figure, density_figure, dimension_figure, heat_map, metrics_figure


def rows(name, metric="svcca"):
    table = study_tables()[name]
    return table[table["metric"] == metric] if "metric" in table else table


def lines(axes):
    return [line for line in axes.lines if line.get_linestyle() == "-"]


def test_the_heat_map_shows_the_median_of_every_layer_and_level_and_the_control():
    figure = heat_map(rows("similarity").sample(frac=1, random_state=0))
    pruned, control = figure.axes[:2]
    values = pruned.collections[0].get_array()
    assert values.shape == (len(LAYERS), 4)
    np.testing.assert_allclose(values[:, 2], 1 - 0.1 - 0.02 * np.arange(4) - 0.003)
    assert [label.get_text() for label in pruned.get_yticklabels()] == [layer for layer, _ in LAYERS]
    assert [label.get_text() for label in control.get_xticklabels()] == ["control"]
    assert [text.get_text() for text in pruned.texts[:4]] == ["1.00", "0.95", "0.90", "0.85"]


def test_dimension_lies_under_similarity_with_a_line_per_level():
    above, below = dimension_figure(rows("similarity"), rows("dimension")).axes[:2]
    for axes, first in ((above, 1 - 0.15 - 0.003), (below, 9 - 0.6)):
        drawn = [line for line in lines(axes) if line.get_marker() == "None" and len(line.get_xdata()) == len(LAYERS)]
        assert len(drawn) == 4
        assert drawn[3].get_ydata()[0] == pytest.approx(first)


def test_density_has_the_modules_that_were_pruned():
    table = study_tables()["layers"]
    table.loc[table["layer"] == "conv2", "density"] = 1.0
    (axes, _) = density_figure(table).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["conv1", "fc1"]
    np.testing.assert_allclose([line.get_ydata()[0] for line in lines(axes)], 0.8 ** np.arange(4))
    with pytest.raises(ValueError, match="no module lost a parameter"):
        density_figure(table.assign(density=1.0))


def test_the_control_is_drawn_beside_the_last_level():
    (axes,) = control_figure(rows("similarity")).axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["retrained without pruning (1 network)", "pruned 3 times (median of 3)"]
    with pytest.raises(ValueError, match="there is no control to draw"):
        control_figure(rows("similarity").query("not control"))


def test_every_metric_has_a_panel():
    figure = metrics_figure(study_tables()["similarity"])
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == [
        "mean CCA similarity (SVCCA, 99 %)",
        "linear CKA",
    ]
