"""The result of a comparison, saved and drawn."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from networks import IMAGES, network

import prunecca as pc

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
