"""The command line: help, answers, and errors as one sentence."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import prunecca as pc
from prunecca.cli.main import app


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def shell(*arguments, **environment):
    command = [sys.executable, "-m", "prunecca", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


@pytest.mark.parametrize("command", ["", "reproduce", "compare", "report", "info"])
def test_every_command_has_help(command):
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output


def test_reproduce_help_names_every_option_of_the_study():
    from prunecca.study.options import Options

    text = invoke("reproduce", "--help").output
    fields = [*Options().flags(), "levels", "replicates", "controls"]
    cut = {name[:14] for name in fields}  # a narrow terminal cuts long names
    missing = [name for name in cut if f"--{name.replace('_', '-')}" not in text]
    assert missing == []


def test_info_is_a_table_or_json():
    assert json.loads(invoke("info", "--json").output)["version"] == pc.__version__
    lines = invoke("info").output.splitlines()
    assert any(line.split() == ["version", pc.__version__] for line in lines)
    assert not any("{" in line for line in lines)


def test_errors_are_one_sentence_without_traceback(tmp_path):
    result = shell("reproduce", "cifar3", "--out", tmp_path / "run")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("prunecca: there is no problem 'cifar3'")
    assert not (tmp_path / "run").exists()


def test_debug_variable_shows_the_traceback(tmp_path):
    result = shell("reproduce", "cifar3", "--out", tmp_path / "run", PRUNECCA_DEBUG="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits2", "--levels", "-1"], "levels is -1; expected 0 to 1000000"),
        (["digits2", "--retrain", "never"], "retrain is 'never'; expected one of"),
        (["digits2", "--metrics", "svca"], "svca"),
        (["digits2", "--rewind-epoch", "10"], "rewind-epoch is 10"),
        (["digits2", "--layers", "conv9"], "conv9"),
        (["digits2", "--device", "tpu"], "device is 'tpu'"),
        (["cifar2", "--data", "/nowhere"], "/nowhere"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        invoke("reproduce", *arguments, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_option_exits_with_2():
    assert invoke("reproduce", "--epoch", "3").exit_code == 2


def test_an_interrupted_comparison_says_so(tmp_path, monkeypatch):
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("prunecca.comparison.files.compare_files", interrupted)
    result = invoke("compare", "--activations", tmp_path / "a.npy", tmp_path / "b.npy")
    assert result.exit_code == 130
    assert "interrupted; nothing was compared to the end, and nothing was written" in result.stderr


def test_a_table_of_another_format_is_refused_before_the_comparison(tmp_path):
    with pytest.raises(ValueError, match=r"ends in '\.txt'; expected a file name ending in \.csv or \.parquet"):
        invoke("compare", "--activations", tmp_path / "a.npy", tmp_path / "b.npy", "--out", tmp_path / "t.txt")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_table_of_a_comparison_is_written(tmp_path, suffix):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).standard_normal((50, 4)))
    out = tmp_path / f"table{suffix}"
    invoke("compare", "--activations", tmp_path / "a.npy", tmp_path / "b.npy", "--out", out, "--metrics", "cca")
    table = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    assert list(table["metric"]) == ["cca"]
    assert table["value"].tolist() == pytest.approx([1.0])
