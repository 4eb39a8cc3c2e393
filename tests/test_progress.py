"""How far a comparison is, where there is no terminal."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from prunecca import progress
from prunecca.progress import reporting


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when the test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_a_minute(clock, capsys):
    with reporting(True, 50_000) as report:
        for step in range(1, 8):
            clock[0] += 20
            report(1600 * step)
    assert capsys.readouterr().err.splitlines() == [
        "compared 4,800 of 50,000 inputs, 9 min left",
        "compared 9,600 of 50,000 inputs, 8 min left",
    ]


@pytest.mark.parametrize(
    ("done", "total", "unit", "seconds", "sentence"),
    [
        (12_800, 50_000, "inputs", 62, "compared 12,800 of 50,000 inputs, 3 min left"),
        (12_800, None, "inputs", 60, "compared 12,800 inputs"),
        (49_999, 50_000, "inputs", 60, "compared 49,999 of 50,000 inputs, less than 1 min left"),
        (50_000, 50_000, "inputs", 60, "compared 50,000 of 50,000 inputs"),
        (10, 5, "inputs", 60, "compared 10 of 5 inputs"),
        (1, 601, "inputs", 60, "compared 1 of 601 inputs, 10.0 h left"),
        (1_500_000_000, 6_000_000_000, "bytes", 60, "compared 1.5 GB of 6.0 GB, 3 min left"),
    ],
)
def test_sentences(done, total, unit, seconds, sentence):
    assert progress._sentence(done, total, unit, seconds) == sentence


def test_what_is_quick_or_not_asked_for_prints_nothing(clock, capsys):
    for asked in (True, False):
        with reporting(asked, 10) as report:
            clock[0] += 0 if asked else 1000
            report(10)
    assert capsys.readouterr() == ("", "")


def test_a_notebook_has_a_bar_that_goes(clock, monkeypatch, capsys):
    shown: list[str] = []

    class Handle:
        def update(self, page: Any) -> None:
            shown.append(page)

    def display(page: Any, display_id: bool) -> Handle:
        shown.append(page)
        return Handle()

    stub: Any = ModuleType("IPython.display")
    stub.HTML, stub.display = str, display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", stub)
    monkeypatch.setattr(progress, "console", lambda stderr: Console(force_jupyter=True))
    with reporting(True, 200) as report:
        for done in (50, 51, 52, 100):
            clock[0] += 30 if done in (50, 100) else 0
            report(done)
    assert shown == [
        "<progress value='0' max='200'></progress> compared 0 of 200 inputs",
        "<progress value='50' max='200'></progress> compared 50 of 200 inputs, 2 min left",
        "<progress value='100' max='200'></progress> compared 100 of 200 inputs, 1 min left",
        "",
    ]
    assert capsys.readouterr() == ("", "")
