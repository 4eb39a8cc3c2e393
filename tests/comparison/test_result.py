"""The result of a comparison, saved and drawn."""

from __future__ import annotations

import base64
from pathlib import Path

import pandas as pd
import pytest
from networks import IMAGES, network

import prunecca as pc
from prunecca.comparison.result import Comparison

pytestmark = pytest.mark.usefixtures("one_thread")


def test_table_and_picture_are_saved(tmp_path: Path) -> None:
    result = pc.compare(network(), [network(k) for k in range(3)], IMAGES, metrics=["svcca", "linear_cka"])
    result.save(tmp_path / "t.csv")
    result.save(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), result.table)
    assert pd.read_csv(tmp_path / "t.csv")["value"].tolist() == pytest.approx(result.table["value"].tolist())
    result.plot(tmp_path / "both.png")
    result.plot(tmp_path / "one.pdf", metric="svcca")
    assert (tmp_path / "both.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "one.pdf").read_bytes()[:4] == b"%PDF"
    with pytest.raises(ValueError, match="no metric 'cca'; it has svcca, linear_cka"):
        result.plot(tmp_path / "x.png", metric="cca")
    with pytest.raises(ValueError, match="expected a picture"):
        result.plot(tmp_path / "x.txt")
    with pytest.raises(ValueError, match=r"ending in \.csv or \.parquet"):
        result.save(tmp_path / "x.xlsx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.png", "one.pdf", "t.csv", "t.parquet"]


def values(count: int, **columns: object) -> pd.DataFrame:
    rows = [
        {"candidate": "<b>$c", "layer": f"<i>{k}", "depth": k, "metric": m, "value": 0.5 + k / 1000, "reliable": k != 1}
        for k in range(count)
        for m in ("svcca", "linear_cka")
    ]
    return pd.DataFrame(rows).assign(**columns)


def test_a_notebook_shows_values_and_a_picture_with_names_as_text() -> None:
    page = Comparison(values(3), ())._repr_html_()
    assert "<b>&lt;b&gt;$c</b>" in page
    assert "<th>&lt;i&gt;0</th>" in page
    assert "<i>" not in page
    assert page.count("0.5010 (!)") == 2
    assert "(!): no more rows than directions" in page
    data = page.split("base64,")[1].split('"')[0]
    assert base64.b64decode(data)[:4] == b"\x89PNG"


def test_a_notebook_shows_at_most_forty_rows() -> None:
    page = Comparison(values(100), ())._repr_html_()
    assert page.count("<th>&lt;i&gt;") == 40
    assert "60 more rows; <code>.table</code> has all." in page
    several = pd.concat([values(30).assign(candidate=name) for name in "abc"])
    page = Comparison(several, ())._repr_html_()
    assert page.count("<th>&lt;i&gt;") == 40
    assert "50 more rows" in page


def test_a_notebook_shows_every_pair_as_a_matrix() -> None:
    table = pd.concat([values(14).assign(layer_y=f"y{k}", depth_y=k) for k in range(14)])
    page = Comparison(table, ())._repr_html_()
    assert "<b>&lt;b&gt;$c, svcca</b>" in page
    assert "<th>y11</th>" in page
    assert "<th>y12</th>" not in page
    assert "2 more" in page


def test_a_notebook_shows_a_comparison_without_values() -> None:
    assert Comparison(values(1).head(0), ())._repr_html_() == "<p>a comparison without values</p>"
