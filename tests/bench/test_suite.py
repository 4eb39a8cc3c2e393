"""What ``prunecca bench`` says of a machine that does something else, and of outputs that it could not write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prunecca.bench import suite, timing
from prunecca.cli.main import app
from prunecca.machine import peaks


def probe(float32: float, read: float = 10.0) -> dict[str, Any]:
    return {"threads": 2, "float32": float32, "float64": 50.0, "read": read, "copy": 8.0}


def results(probes: list[dict[str, Any]], gflops: float, own: tuple[float, float]) -> dict[str, Any]:
    row = {
        "seconds": 0.1,
        "gflops": gflops,
        "operations": 1e9,
        "bytes": 1e8,
        "ours_times_faster": 1.0,
        "float64": False,
    }
    row |= {"lowest_peak_gflops": own[0], "peak_gflops": own[1], "fraction_of_peak": gflops / own[1]}
    found = {
        "machine": {"processor": "A $x$ CPU", "cpu_level": "avx2", "prunecca": "1", "torch": "2"},
        "contests": {"covariance of (10, 4)": {"prunecca": row}},
        "probes": probes,
    }
    suite.settle(found)
    return found


def test_the_peak_is_the_best_of_all_probes() -> None:
    found = results([probe(90), probe(100), probe(95)], 80.0, (98.0, 102.0))
    assert found["peaks"]["float32"] == 102
    assert found["busy"] is None
    assert found["contests"]["covariance of (10, 4)"]["prunecca"]["fraction_of_peak"] == pytest.approx(80 / 102)
    assert "| 78 % |" in suite.as_table(found)
    assert "busy" not in suite.as_table(found)


@pytest.mark.parametrize(
    ("probes", "own"),
    [
        ([probe(100), probe(80)], (99.0, 100.0)),
        ([probe(100), probe(99, read=5.0)], (99.0, 100.0)),
        ([probe(100)], (0.4, 100.0)),
        ([probe(100)], (20.0, 21.0)),
    ],
)
def test_probes_that_differ_tell_that_the_machine_is_busy(
    probes: list[dict[str, Any]], own: tuple[float, float]
) -> None:
    found = results(probes, 70.0, own)
    assert found["busy"] > 0.15
    assert "The machine is busy: probes of one rate differed by" in suite.as_table(found)
    assert "| 70 % |" in suite.as_table(found), "of the best probe, whatever the one beside the contest was"


def test_more_than_the_peak_is_never_said_without_that_word() -> None:
    table = suite.as_table(results([probe(100)], 120.0, (100.0, 100.0)))
    assert "| 120 % (the machine is busy) |" in table
    assert "The machine is busy" in table


def test_a_contest_beside_another_load_is_held_against_its_best_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([100.0, 0.4, 90.0])
    monkeypatch.setattr(timing, "fma_rate", lambda **_: next(rates))
    contest = timing.Contest({"prunecca": lambda: None}, lambda _: {}, timing.Work(operations=1e9))
    row = timing.run(contest, seconds=0.0, rounds=(3, 3)).row("prunecca")
    assert (row["lowest_peak_gflops"], row["peak_gflops"]) == (0.4, 100)
    assert row["fraction_of_peak"] == pytest.approx(row["gflops"] / 100)


def test_the_best_of_some_probes_is_the_best_of_each_rate() -> None:
    best = peaks.best_of([peaks.Peaks(**probe(3, 9)), peaks.Peaks(**probe(2, 11))])
    assert (best.threads, best.float32, best.read) == (2, 3, 11)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plot", "x.txt"], "x.txt ends in '.txt'; expected a picture such as .png, .pdf or .svg"),
        (["--plot", "x"], "x ends in ''; expected a picture"),
        (["--plot", "f/x.png"], "f is a file, not a folder"),
        (["--plot", "x.png", "--json", "./x.png"], "--plot and --json both name x.png; expected two files"),
        (["--json", "."], "cannot write .: it is a folder; give the name of a file in it"),
        (["--json", "/dev/null"], "cannot write /dev/null: it is no ordinary file"),
        (["--json", "/proc/x"], "/proc/"),
        (["--seconds", "inf"], "--seconds is inf"),
    ],
)
def test_what_could_not_be_written_is_refused_before_anything_is_measured(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text("a file")
    monkeypatch.setattr(suite, "machine_and_peaks", lambda: pytest.fail("measured"))
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code != 0
    assert words in str(result.exception)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f"]


def test_a_run_writes_all_it_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def contest() -> timing.Contest:
        return timing.Contest({"prunecca": lambda: None}, lambda _: {}, timing.Work(operations=1e3, bytes=8.0))

    monkeypatch.setattr(peaks, "_BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(suite, "selection", lambda: [("covariance of (1, 1)", contest)])
    outputs = ["--json", str(tmp_path / "new" / "r.json"), "--plot", str(tmp_path / "r.svg"), "--seconds", "0"]
    result = CliRunner().invoke(app, ["bench", *outputs])
    assert result.exit_code == 0, result.exception
    found = json.loads((tmp_path / "new" / "r.json").read_text())
    assert len(found["probes"]) == 2
    assert found["peaks"]["float32"] >= max(p["float32"] for p in found["probes"])
    assert (tmp_path / "r.svg").read_text().startswith("<?xml")
