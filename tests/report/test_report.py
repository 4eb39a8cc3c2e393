"""Writing a report: its files, its errors, its command."""

import os

import pandas as pd
import pytest
from pages import Page
from reports import configuration, store, study_tables
from typer.testing import CliRunner

from prunecca import errors
from prunecca.cli.main import app
from prunecca.errors import ConfigurationError
from prunecca.report.report import write
from prunecca.study.run_directory import RunDirectory


def test_the_claims_are_a_table_too(whole):
    claims = pd.read_csv(whole.table)
    assert claims["verdict"].tolist() == [claim.verdict for claim in whole.claims]
    assert claims["value"].tolist() == pytest.approx([claim.value for claim in whole.claims], nan_ok=True)


def test_figures_are_also_png_and_pdf(whole):
    names = {path.name for path in whole.figures}
    stems = ["accuracy", "similarity-svcca"]
    stems += [
        f"{what}-digits{n}" for n in (2, 6) for what in ("heat-map", "density", "dimension", "control", "metrics")
    ]
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}
    assert all(path.stat().st_size > 1000 for path in whole.figures)


def test_the_same_tables_give_the_same_bytes(tmp_path):
    size = (1, 1, 1)
    store(tmp_path, study_tables(size=size), configuration(size=size))
    first, second = (write(tmp_path, tmp_path / name) for name in "ab")
    assert first.page.read_bytes() == second.page.read_bytes()
    for one, other in zip(first.figures, second.figures, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_what_cannot_be_reported_is_said_in_one_sentence(tmp_path):
    with pytest.raises(ConfigurationError, match="does not exist; expected a folder made by"):
        write(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=r"is not a run directory: it has no config\.json"):
        write(tmp_path)
    RunDirectory(tmp_path).configure(configuration())
    with pytest.raises(ValueError, match=r"no network of .* is finished yet"):
        write(tmp_path)
    store(tmp_path, study_tables())
    with pytest.raises(ValueError, match="margin is -1; expected a loss of accuracy"):
        write(tmp_path, margin=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError, match="a part of this path is a file"):
        write(tmp_path, tmp_path / "file")
    (tmp_path / "tables" / "similarity.parquet").write_bytes(b"PAR1")
    with pytest.raises(errors.CorruptFile, match=r"similarity\.parquet is damaged: it cannot be read as a table"):
        write(tmp_path)
    made = study_tables()
    store(tmp_path, made | {"similarity": made["similarity"].drop(columns="depth")})
    with pytest.raises(errors.CorruptFile, match="lacks the columns depth"):
        write(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    store(tmp_path, study_tables(size=(1, 1, 0)))
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(errors.StorageError, match="read-only for this user"):
        write(tmp_path, tmp_path / "closed")


def test_the_command_line_tells_where_the_page_is_and_changes_nothing_else(tmp_path, quick):
    store(tmp_path, study_tables(size=(2, 1, 0), dimension=False), configuration(size=(2, 1, 0)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    arguments = ["report", str(tmp_path), "--metric", "linear_cka", "--margin", "0.1"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    page = tmp_path / "report" / "index.html"
    assert f"page     {page}" in result.output
    assert "linear CKA; accuracy within 0.100 counts as comparable" in Page(page).text
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert all(tmp_path / "report" in path.parents for path in set(after) - set(before))
