"""What commands print and where they write: names are text, and places are tried before the work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from prunecca.cli.main import app
from prunecca.cli.outputs import check_file, check_folder
from prunecca.errors import StorageError


def compare(*arguments):
    command = ["compare", "--activations", "--metrics", "cca", *map(str, arguments)]
    return CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.fixture
def stored(tmp_path):
    """Two files of activations with names that are markup to rich, HTML and shells."""
    paths = [tmp_path / "a[/b].npy", tmp_path / "[red]&<i>:smile:%s.npy"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.random.default_rng(0).standard_normal((100, 4)))
    return paths


def test_brackets_in_names_are_text(stored, tmp_path):
    out = tmp_path / "t[" / "x].csv"
    result = compare(*stored, "--out", out)
    assert result.exit_code == 0
    assert str(stored[1]) in result.output
    assert f"table  {out}" in result.output
    assert pd.read_csv(out)["candidate"].tolist() == [str(stored[1])]


def test_a_name_that_is_no_utf8_is_escaped_in_output_and_table(stored, tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff.npy")
    odd.write_bytes(stored[0].read_bytes())
    out = tmp_path / "t.csv"
    command = [sys.executable, "-m", "prunecca", "compare", "--activations", stored[0], odd, "--metrics", "cca"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "0", "LC_ALL": "C"}
    result = subprocess.run([*command, "--out", out], capture_output=True, env=environment, timeout=120)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"\\udcff.npy" in result.stdout
    assert pd.read_csv(out)["candidate"][0].endswith("/\\udcff.npy")


def test_a_table_that_cannot_be_written_is_refused_before_the_work(stored, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for out, why in (
        ("/proc/x.csv", "nothing can be written in /proc (no such file or directory); choose another folder"),
        (tmp_path / "file" / "x.csv", f"{tmp_path}/file is a file, not a folder; choose another folder"),
        (tmp_path / "folder.csv", "it is a folder; give the name of a file in it"),
        (tmp_path / "link" / "x.csv", f"{tmp_path}/link is a link that leads nowhere; choose another folder"),
    ):
        with pytest.raises(StorageError) as caught:
            compare(tmp_path / "absent.npy", tmp_path / "absent.npy", "--out", out)
        assert str(caught.value) == f"cannot write {out}: {why}"


def test_devices_are_not_replaced_by_files():
    with pytest.raises(StorageError, match="cannot write /dev/null: it is no ordinary file; choose another name"):
        check_file(Path(os.devnull))


def test_a_run_directory_that_cannot_be_made_is_refused_before_the_work(tmp_path):
    with pytest.raises(StorageError, match=r"^cannot write /proc/x: nothing can be written in /proc \("):
        CliRunner().invoke(app, ["reproduce", "digits2", "--out", "/proc/x"], catch_exceptions=False)
    check_folder(tmp_path / "a" / "b" / "c")
    check_file(tmp_path / "a" / "b.csv")
    assert list(tmp_path.iterdir()) == []
