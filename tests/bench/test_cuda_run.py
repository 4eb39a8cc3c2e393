"""The benchmarks of a CUDA device as one run: sections, time, files."""

import json
import time

import pytest
import torch
from benchmarks.cuda import run


def test_a_wrong_result_and_lost_time_do_not_stop_the_others(bench, make_row):

    def wrong(_):
        raise AssertionError("the covariance is off")

    rows = list(run.measure([("a", wrong), ("b", lambda _: make_row())], bench, time.monotonic() + 60))
    assert (rows[0].failed, rows[0].why) == (True, "AssertionError: the covariance is off")
    assert rows[1].what == "it"
    (late,) = run.measure([("a", wrong)], bench, time.monotonic() - 1)
    assert (late.failed, late.why) == (False, "the time was over")


def test_every_section_has_titles_of_its_own():
    titles = [title for cases in run.SECTIONS.values() for title, _ in cases()]
    assert len(set(titles)) == len(titles) > 40
    assert sum(run.SHARES.values()) == pytest.approx(1.0)
    assert set(run.SHARES) == set(run.SECTIONS)


def test_arguments(tmp_path, capsys):
    assert run.arguments([str(tmp_path), "--only", "linalg"]).only == ["linalg"]
    for wrong in ([], [str(tmp_path), "--seconds", "0"], [str(tmp_path), "--only", "dust"]):
        with pytest.raises(SystemExit):
            run.arguments(wrong)
    assert "--seconds is 0; expected more than 0" in capsys.readouterr().err


def test_results_become_json_row_by_row(tmp_path, make_row):
    results = run.Results(tmp_path, {"device": "none"}, 1e10)
    for count in (1, 2):
        results.add("linalg", make_row())
        read = json.loads((tmp_path / "gpu.json").read_text())
        assert [row["what"] for row in read["contests"]["linalg"]] == ["it"] * count
        json.dumps(read, allow_nan=False)
        assert (tmp_path / "gpu.md").read_text().count("| it |") == count


def test_sections_of_an_earlier_call_stay(tmp_path, make_row):
    first = run.Results(tmp_path, {"device": "none"}, 1e10)
    first.add("linalg", make_row(what="old"))
    first.add("pruning", make_row(what="kept"))
    second = run.Results(tmp_path, {"device": "none"}, 1e10)
    second.begin("linalg")
    second.add("linalg", make_row(what="new"))
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| kept", "| new"]


def test_every_row_is_written_before_the_next_is_measured(tmp_path, bench, make_row, monkeypatch):
    seen = []

    def case(_):
        seen.append((tmp_path / "gpu.md").is_file())
        return make_row()

    monkeypatch.setattr(run, "SECTIONS", {"linalg": lambda: [("a", case), ("b", case)]})
    assert run.run(bench, ["linalg"], 60.0, run.Results(tmp_path, {}, 1e10))
    assert seen == [False, True]


def test_a_device_that_was_broken_is_blamed_on_one_case(bench, make_row, monkeypatch):
    def wrong(_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(run, "_answers", lambda device: False)
    rows = list(run.measure([("a", wrong), ("b", lambda _: make_row())], bench, time.monotonic() + 60))
    assert [row.failed for row in rows] == [True, False]
    assert rows[1].why == "the device does not answer since 'a'"


def test_a_dry_run_names_the_cases(tmp_path, capsys):
    assert run.main([str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[:4]] == list(run.SECTIONS)
    assert not (tmp_path / "out").exists()


def test_without_a_device_it_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run.main([str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "torch finds no CUDA device" in said or "built without CUDA" in said
    assert not (tmp_path / "out").exists()
