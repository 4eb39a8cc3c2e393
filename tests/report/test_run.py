"""What a report reads: run directories and folders of tables."""

import pandas as pd
import pytest
from reports import configuration, store, study_tables

from prunecca.report import run as reported
from prunecca.study import tables
from prunecca.study.options import Options


@pytest.mark.parametrize(("kind", "flat"), [("csv", False), ("csv", True)])
def test_tables_without_weights_may_be_csv_under_tables_or_beside_the_configuration(tmp_path, kind, flat):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    made = study_tables(dimension=False)
    for table in made.values():
        if "layer" in table:
            table["layer"] = table["layer"].replace({"conv1": "0"})  # as in a plain torch.nn.Sequential
    expected = reported.read(store(tmp_path / "a", made))
    found = reported.read(store(tmp_path / "b", made, kind=kind, flat=flat))
    for name in ("levels", "layers", "similarity", "timing"):
        pd.testing.assert_frame_equal(found.tables[name], expected.tables[name])
    assert found.tables["dimension"].empty


def test_tables_are_made_from_the_pieces_where_they_are_there(tmp_path, monkeypatch):
    store(tmp_path, {name: its.query("replicate == 0") for name, its in study_tables().items() if len(its)})
    (tmp_path / "digits2" / "level-00").mkdir(parents=True)
    (tmp_path / "digits2" / "level-00" / "piece.json").write_text("{}")
    assert len(reported.read(tmp_path).finished) == 5, "its pieces are damaged: the stored tables are left"
    monkeypatch.setattr(tables, "build", lambda *_: study_tables())
    assert len(reported.read(tmp_path).finished) == 11


def test_commands_make_the_same_configuration_again():
    options = Options.from_flags(metrics=("svcca",), prune_output_layer=True, trim=0.98)
    config = configuration(("cifar2", "cifar4"), options=options, epochs=50)
    config["problems"]["cifar4"]["size"] = {"levels": 20, "replicates": 1, "controls": 0}
    run = reported.ReportedRun("run", config, [], {}, [])
    tail = "--prune-output-layer --metrics svcca --trim 0.98"
    assert run.commands() == [
        f"prunecca reproduce cifar2 --paper --levels 3 --replicates 3 --controls 1 {tail}",
        f"prunecca reproduce cifar4 --paper --levels 20 --replicates 1 --controls 0 {tail}",
    ]


def test_another_metric_takes_the_place_of_svcca(tmp_path):
    made = study_tables()
    made["similarity"] = made["similarity"][made["similarity"]["metric"] == "linear_cka"]
    run = reported.read(store(tmp_path, made))
    assert run.choose_metric(None) == "linear_cka"
    with pytest.raises(ValueError, match="has no metric 'svcca'; it has linear_cka"):
        run.choose_metric("svcca")


def test_run_directories_with_replicates_of_one_study_are_read_as_one(tmp_path):
    whole = study_tables(size=(3, 4, 1))
    folders = []
    for number, first in enumerate((0, 2)):
        part = {
            name: table[table["replicate"].isin([first, first + 1]) & ~(table["control"] & (first > 0))]
            for name, table in whole.items()
            if len(table)
        }
        config = configuration(size=(3, 2, 1 - number))
        config["problems"]["digits2"]["size"]["first_replicate"] = first
        folders.append(store(tmp_path / f"part{number}", part, config))
    (joined,) = reported.read_studies(folders)
    assert joined.name == "part0 + part1"
    assert joined.configuration["problems"]["digits2"]["size"]["replicates"] == 4
    for name, table in whole.items():
        if table.empty:
            continue
        expected = table.sort_values(list(table.columns), ignore_index=True)
        assert joined.tables[name].sort_values(list(expected.columns), ignore_index=True).equals(expected), name
    assert joined.unfinished("digits2") == []


def test_run_directories_with_other_options_are_not_one_study(tmp_path):
    first = store(tmp_path / "a", study_tables())
    second = store(tmp_path / "b", study_tables(), configuration(options=Options.from_flags(seed=1)))
    assert [run.name for run in reported.read_studies([first, second, first])] == ["a + a", "b"]


def test_of_several_run_directories_some_may_have_begun_nothing(tmp_path):
    first = store(tmp_path / "a", study_tables())
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    same, other = (
        store(tmp_path / "b", {}),
        store(tmp_path / "c", {}, configuration(options=Options.from_flags(seed=1))),
    )
    runs = reported.read_studies([first, same, other])
    assert [run.has_begun for run in runs] == [True, False]
    assert len(runs[1].unfinished("digits2")) == 11
    with pytest.raises(ValueError, match=r"no network of .*b is finished yet; go on with"):
        reported.read_studies([same, other])
