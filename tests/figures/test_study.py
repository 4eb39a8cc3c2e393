"""The study's pictures, from small tables made here."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from prunecca.figures import style
from prunecca.figures.study import accuracy_figure, similarity_figure

LAYERS = [("conv1", "conv"), ("conv2", "conv"), ("pool1", "pool"), ("fc1", "fc")]


def levels_table(problems=("digits2", "digits4"), replicates=3, levels=4, control=True):
    rows = []
    for problem in problems:
        for replicate in range(replicates):
            for level in range(levels + 1):
                accuracy = 0.9 + 0.01 * replicate - 0.01 * level
                rows.append((problem, replicate, level, False, 0.8**level, accuracy))
        if control:
            rows.append((problem, 0, 1, True, 1.0, 0.93))
    return pd.DataFrame(rows, columns=["problem", "replicate", "level", "control", "density", "test_accuracy"])


def similarity_table(problems=("digits2",), replicates=3, levels=4, layers=LAYERS):
    rows = []
    for problem in problems:
        for replicate in range(replicates):
            for level in range(levels + 1):
                for depth, (layer, kind) in enumerate(layers):
                    value = 1.0 if level == 0 else 1 - 0.05 * level - 0.05 * depth + 0.01 * replicate
                    for metric in ("svcca", "cca"):
                        rows.append((problem, replicate, level, False, layer, kind, depth, metric, value))
        for depth, (layer, kind) in enumerate(layers):
            rows.append((problem, 0, 1, True, layer, kind, depth, "svcca", 0.9))
    names = ["problem", "replicate", "level", "control", "layer", "kind", "depth", "metric", "value"]
    return pd.DataFrame(rows, columns=names)


def lines(axes):
    return [line for line in axes.lines if line.get_linestyle() == "-"]


def test_accuracy_is_the_median_over_replicates_against_density():
    figure = accuracy_figure(levels_table())
    (axes,) = figure.axes
    drawn = lines(axes)
    assert len(drawn) == 2
    np.testing.assert_allclose(drawn[0].get_xdata(), 0.8 ** np.arange(5))
    np.testing.assert_allclose(drawn[0].get_ydata(), 0.91 - 0.01 * np.arange(5))
    assert axes.get_xlim()[0] > axes.get_xlim()[1], "the unpruned network is at the left"


def test_control_is_a_dashed_line_only_when_there_is_one():
    assert len(accuracy_figure(levels_table(problems=["digits2"])).axes[0].lines) == 2
    assert len(accuracy_figure(levels_table(problems=["digits2"], control=False)).axes[0].lines) == 1


def test_similarity_has_one_line_per_level_in_layer_order_darker_with_level():
    table = similarity_table().sample(frac=1, random_state=0)  # the order of rows is no matter
    axes = similarity_figure(table).axes[0]
    drawn = [line for line in lines(axes) if len(line.get_xdata()) == len(LAYERS)]
    assert len(drawn) == 5
    assert [label.get_text() for label in axes.get_xticklabels()] == [layer for layer, _ in LAYERS]
    np.testing.assert_allclose(drawn[0].get_ydata(), 1.0)
    np.testing.assert_allclose(drawn[2].get_ydata(), 1 - 0.1 - 0.05 * np.arange(4) + 0.01)
    brightness = [sum(int(to_hex(line.get_color())[i : i + 2], 16) for i in (1, 3, 5)) for line in drawn]
    assert brightness == sorted(brightness, reverse=True)
    assert axes.get_ylim() == (0.0, 1.02)


def test_similarity_has_one_panel_per_problem():
    figure = similarity_figure(similarity_table(problems=("digits2", "digits4", "digits6")))
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["digits2", "digits4", "digits6"]


def test_figures_are_written_as_png_and_pdf_and_are_the_same_each_time(tmp_path):
    first = style.save(similarity_figure(similarity_table()), tmp_path / "a")
    second = style.save(similarity_figure(similarity_table()), tmp_path / "b")
    assert [path.name for path in first] == ["a.png", "a.pdf"]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(first, second, strict=True))
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[1].read_bytes().startswith(b"%PDF")


def test_tables_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="no metric 'cka'; it has cca, svcca"):
        similarity_figure(similarity_table(), "cka")
    with pytest.raises(ValueError, match="lacks the columns density"):
        accuracy_figure(levels_table().drop(columns="density"))
    with pytest.raises(ValueError, match="has no rows"):
        accuracy_figure(levels_table().iloc[:0])
