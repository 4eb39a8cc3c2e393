"""The heat map of every pair of layers, and lines along the layers: what is drawn, for few and for many."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from prunecca.comparison.result import Comparison
from prunecca.figures.heatmap import colour_scale
from prunecca.figures.layer_labels import shortened


def pairs(down: int, across: int, candidates=("pruned",), metrics=("linear_cka",), **columns) -> pd.DataFrame:
    rows = [
        {"candidate": c, "layer": f"layer{i}", "layer_y": f"part{j}", "depth": i, "depth_y": j, "metric": metric}
        for c in candidates
        for j in reversed(range(across))  # the order of rows must not matter
        for i in range(down)
        for metric in metrics
    ]
    return pd.DataFrame(rows).assign(value=np.linspace(0, 1, len(rows)), reliable=True, **columns)


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def test_pivot_has_the_layers_in_order_of_execution():
    table = pairs(11, 3)
    wide = Comparison(table, ()).pivot()
    assert list(wide.index) == [f"layer{i}" for i in range(11)]  # as text, layer10 would come before layer2
    assert list(wide.columns) == ["part0", "part1", "part2"]
    assert set(wide.dtypes) == {np.dtype("float64")}
    for row in table.itertuples():
        assert wide.loc[row.layer, row.layer_y] == row.value


def test_pivot_of_namesakes_is_a_diagonal():
    table = pairs(3, 3).drop(columns=["layer_y", "depth_y"]).drop_duplicates("layer")
    wide = Comparison(table, ()).pivot("linear_cka", "pruned")
    assert np.isfinite(wide.to_numpy()).tolist() == np.eye(3, dtype=bool).tolist()


def test_pivot_asks_for_what_is_not_named():
    result = Comparison(pairs(2, 2, ("a", "b"), ("svcca", "nbs")), ())
    with pytest.raises(ValueError, match=r"^the table has the candidates a, b; name one$"):
        result.pivot("svcca")
    with pytest.raises(ValueError, match=r"^the table has the metrics svcca, nbs; name one, as in pivot\('svcca'\)$"):
        result.pivot(candidate="a")
    with pytest.raises(ValueError, match=r"^the table has no candidate 'c'; it has a, b$"):
        result.pivot("svcca", "c")
    with pytest.raises(ValueError, match="two rows of svcca for 'layer0' and 'part1' of 'a'"):
        Comparison(pd.concat([result.table, result.table]), ()).pivot("svcca", "a")


def test_cells_have_their_values_on_a_scale_from_0_to_1():
    table = pairs(4, 3)
    table.loc[5, "value"] = np.nan
    table.loc[6, "reliable"] = False
    axes = Comparison(table, ()).heatmap()
    image = axes.collections[0]
    np.testing.assert_array_equal(image.get_array().filled(np.nan), Comparison(table, ()).pivot().to_numpy())
    assert image.get_clim() == (0, 1)
    assert axes.get_ylim() == (3.5, -0.5)  # the first layer is at the top
    wide = Comparison(table, ()).pivot()
    shown = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in axes.texts}
    for (i, j), value in np.ndenumerate(wide.to_numpy()):
        assert shown[i, j] == ("–" if np.isnan(value) else f"{value:.2f}")
    assert [c.get_hatch() for c in axes.collections[1:]] == ["///"]
    assert "hatched: no more rows than directions" in axes.get_xlabel()


@pytest.mark.parametrize(
    ("metric", "values", "limits"),
    [
        ("linear_cka", [-0.2, 0.4], (0, 1)),
        ("linear_cka", [0.3, 1.0000001], (0, 1)),
        ("gulp", [0.1, 0.4], (0, 0.4)),
        ("angular_cka", [0.0, 0.0], (0, 1)),
        ("mine", [0.1, 7.5], (0, 7.5)),
        ("nbs", [np.nan, np.nan], (0, 1)),
        ("rsa", [0.1, 0.3], (0, 1)),
    ],
)
def test_scales(metric, values, limits):
    norm = colour_scale(metric, np.array(values))
    assert (norm.vmin, norm.vmax) == limits


def test_candidates_are_panels_unless_one_is_named():
    result = Comparison(pairs(3, 3, ("a", "b", "c", "d"), ("svcca", "nbs")), ())
    figure = result.heatmap("nbs")
    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["a", "b", "c", "d"]
    assert result.heatmap("nbs", candidate="c").get_title() == "c"
    _, mine = pyplot.subplots()
    assert result.heatmap("nbs", candidate="b", ax=mine) is mine
    with pytest.raises(ValueError, match=r"there are 4 candidates for one ax; name one, as in candidate='a'"):
        result.heatmap("nbs", ax=mine)


def test_namesakes_alone_are_no_heat_map():
    table = pairs(3, 3).query("layer.str[-1] == layer_y.str[-1]")
    for shown in (table, table.drop(columns=["layer_y", "depth_y"])):
        with pytest.raises(ValueError, match=r'each layer with one other alone; a heat map needs every pair: compare\(\.\.\., pairs="all"\)'):  # fmt: skip
            Comparison(shown, ()).heatmap()


def test_pictures_are_written_whole_and_leave_no_figure_open(tmp_path):
    result = Comparison(pairs(3, 4), ())
    result.heatmap(path=tmp_path / "h.png")
    assert (tmp_path / "h.png").read_bytes()[:4] == b"\x89PNG"
    assert pyplot.get_fignums() == []
    with pytest.raises(ValueError, match="expected a picture such as"):
        result.heatmap(path=tmp_path / "h.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["h.png"]


def test_lines_are_of_namesakes_where_every_pair_is_there():
    table = pairs(3, 3).assign(layer_y=lambda t: t["layer_y"].str.replace("part", "layer"))
    table.loc[(table["layer"] == "layer1") & (table["layer_y"] == "layer1"), "reliable"] = False
    axes = Comparison(table, ()).plot()
    line, hollow = axes.lines
    assert hollow.get_xdata().tolist() == [1]
    assert axes.get_xlabel() == "layer\nhollow: no more rows than directions"
    np.testing.assert_array_equal(line.get_ydata(), np.diag(Comparison(table, ()).pivot().to_numpy()))
    with pytest.raises(ValueError, match=r"no layer was compared with its namesake.*use heatmap"):
        Comparison(pairs(3, 3), ()).plot()


def test_one_metric_is_drawn_on_the_axes_of_the_user():
    table = pairs(3, 3, metrics=("svcca", "nbs")).assign(layer_y=lambda t: t["layer_y"].str.replace("part", "layer"))
    _, (mine, other) = pyplot.subplots(1, 2)
    assert Comparison(table, ()).plot(metric="nbs", ax=mine) is mine
    assert mine.get_ylabel() == "normalised Bures similarity"
    assert not other.lines
    with pytest.raises(
        ValueError, match=r"^nbs is a metric, and the first argument is a file; give it as metric='nbs'$"
    ):
        Comparison(table, ()).plot("nbs")
    with pytest.raises(ValueError, match=r"the table has the metrics svcca, nbs; name one, as in plot\('svcca'\)"):
        Comparison(table, ()).plot(ax=mine)


def test_a_hundred_layers_have_labels_that_do_not_overlap():
    names = [f"encoder.layer.{i}.attention.output.LayerNorm" for i in range(100)]
    table = pairs(100, 100).assign(
        layer=lambda t: t["layer"].map(lambda n: names[int(n[5:])]),
        layer_y=lambda t: t["layer_y"].map(lambda n: names[int(n[4:])]),
    )
    axes = Comparison(table, ()).heatmap()
    assert max(axes.figure.get_size_inches()) < 16
    axes.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert len(boxes) >= 50
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert "encoder.layer." in axes.get_ylabel()
    assert not axes.texts


@pytest.mark.parametrize(
    ("names", "prefix", "short"),
    [
        (["a.b.0", "a.b.1"], "a.b.", ["0", "1"]),
        (["a", "a.b"], "", ["a", "a.b"]),
        (["only.one"], "", ["only.one"]),
        ([], "", []),
        (["x" * 10 + ".conv", "embedding"], "", ["x" * 10 + ".conv", "embedding"]),
        (
            ["first", *(f"encoder.block.{i}.attention.output.dense" for i in (1, 2))],
            "",
            ["first", "…1.attention.output.dense", "…2.attention.output.dense"],
        ),
    ],
)
def test_names_are_shortened_as_far_as_they_differ(names, prefix, short):
    assert shortened(names) == (prefix, short)
