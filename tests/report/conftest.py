"""A report that tests only read, and figures that cost no time."""

import pytest
from reports import configuration, store, study_tables

from prunecca.figures import style
from prunecca.report import report
from prunecca.report.report import write
from prunecca.storage import atomic, states


@pytest.fixture
def quick(monkeypatch):
    """Figures are drawn, and instead of their files, which take most of the time, empty ones are written."""

    def save(figure, path, within):
        atomic.write_atomic(path, b"", within)
        return [path]

    monkeypatch.setattr(style, "save", save)
    monkeypatch.setattr(report, "as_svg", lambda figure: b"<svg/>")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The report of a finished study of two problems; tests only read it."""
    folder = tmp_path_factory.mktemp("report") / "run"
    folder.mkdir()
    problems = ("digits2", "digits6")
    store(folder, study_tables(problems), configuration(problems))
    start = {"time": "2026-01-02T03:04:05+00:00", "device": "cuda:0", "gpus": ["NVIDIA H100"], "torch": "2.12.0"}
    states.write_json(folder / "environment.json", {"starts": [start]})
    return write(folder)
