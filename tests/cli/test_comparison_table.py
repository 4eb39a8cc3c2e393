"""What a terminal shows of a comparison."""

from __future__ import annotations

import pandas as pd
import pytest

from prunecca.cli.comparison_table import print_comparison


def pairs(metric: str, *, reliable: bool = True) -> pd.DataFrame:
    values = {("a", "a"): 0.9, ("a", "b"): 0.1, ("b", "a"): 0.3, ("b", "b"): 0.2}
    rows = [
        {"layer": x, "layer_y": y, "depth": ord(x), "depth_y": ord(y), "value": value}
        for (x, y), value in values.items()
    ]
    return pd.DataFrame(rows).assign(candidate="c", metric=metric, reliable=reliable)


def words(text: str) -> list[list[str]]:
    return [line.replace("│", " ").split() for line in text.splitlines() if "│" in line]


def test_every_pair_is_a_matrix(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_comparison(pairs("linear_cka"))
    assert words(capsys.readouterr().out) == [["a", "0.9000", "0.1000"], ["b", "0.3000", "0.2000"]]


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ("linear_cka", [["a", "a", "0.9000*"], ["b", "a", "0.3000*"]]),
        ("gulp", [["a", "b", "0.1000*"], ["b", "b", "0.2000*"]]),  # the least of the distances
    ],
)
def test_a_narrow_terminal_shows_what_is_most_alike(capsys, monkeypatch, metric, shown):
    monkeypatch.setenv("COLUMNS", "40")
    table = pairs(metric, reliable=False)
    wide = pd.concat([table, table.iloc[[0, 2]].assign(layer_y="x" * 20, depth_y=200, value=float("nan"))])
    print_comparison(wide)
    text = capsys.readouterr().out
    assert words(text) == shown
    assert "* no more rows than directions, so that the value means nothing" in text


def test_long_names_are_not_cut_off(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    names = {"a": "encoder.layer.0.attention.self.query", "b": "encoder.layer.0.attention.self.key"}
    table = pairs("linear_cka").replace({"layer": names, "layer_y": names})
    print_comparison(table)
    lines = words(capsys.readouterr().out)
    assert "".join(line[0] for line in lines[:2]) == names["a"]
    assert "".join(line[0] for line in lines[2:]) == names["b"]
