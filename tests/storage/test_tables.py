"""Tables as files."""

import os

import pandas as pd
import pytest

from prunecca import errors
from prunecca.storage.tables import write_table

TABLE = pd.DataFrame({"layer": ["conv1", "fc1"], "value": [0.1, 1 / 3], "count": [3, 4]})


@pytest.mark.parametrize(("name", "read"), [("t.csv", pd.read_csv), ("t.parquet", pd.read_parquet)])
def test_a_table_comes_back_as_it_was_and_gives_the_same_bytes(tmp_path, name, read):
    write_table(tmp_path / name, TABLE)
    pd.testing.assert_frame_equal(read(tmp_path / name), TABLE)
    first = (tmp_path / name).read_bytes()
    write_table(str(tmp_path / name), TABLE.copy().set_index(pd.Index([7, 8])))
    assert (tmp_path / name).read_bytes() == first


def test_another_ending_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"t.xlsx ends in '.xlsx'; expected a file name ending in .csv or .parquet"):
        write_table(tmp_path / "t.xlsx", TABLE)
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError, match="a part of this path is a file"):
        write_table(tmp_path / "file" / "t.csv", TABLE)
