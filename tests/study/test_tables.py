"""The tidy tables of a study."""

import pytest
from making import configuration, table_of, work

from prunecca.study import tables
from prunecca.study.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.configure(configuration())
    return run


def test_tables_repeat_level_0_for_every_replicate(run):
    work(run)
    written = tables.write(run, run.plan(), run.finished())
    loaded = tables.load(run.root)
    assert all(loaded[name].equals(written[name]) for name in tables.NAMES)
    levels = loaded["levels"]
    assert levels.groupby(["replicate", "control"]).size().to_dict() == {(0, False): 3, (1, False): 3, (0, True): 1}
    assert levels[levels["level"] == 0]["digest"].nunique() == 1
    assert "seconds" not in loaded["epochs"]
    assert list(loaded["timing"].columns) == ["problem", "replicate", "level", "control", "epoch", "seconds"]
    assert list(loaded["similarity"].columns[:5]) == ["problem", "replicate", "level", "control", "layer"]


def test_tables_of_nothing_and_of_no_run(run, tmp_path):
    assert all(table.empty for table in table_of(run).values())
    with pytest.raises(FileNotFoundError, match="has no tables"):
        tables.load(tmp_path)
