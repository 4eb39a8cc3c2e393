"""What a running study tells, with names that are markup to rich."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from prunecca.study.reporter import Bars, Lines


@pytest.mark.parametrize("markup", [False, True])
def test_names_are_told_as_they_are(markup: bool) -> None:
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=200, color_system=None, markup=markup)
    summary = {"test_accuracy": 0.5, "density": 1.0}
    name, run = "a[/b] level 0", "runs/[lr=0.1]"
    with Bars(console) as bars:
        bars.start(run, 1, 2)
        bars.begin(name, 0, 1)
        bars.batch(name, 1, 2)
        bars.epoch(name, {"epoch": 1, "test_accuracy": 0.5})
        bars.message("[/x]")
        bars.end(name, summary)
    lines = Lines(console)
    lines.start(run, 1, 2)
    lines.end(name, summary)
    for words in (f"{run}: 1 of 2 networks are finished already", f"{name}: test accuracy 50.00 %", "[/x]"):
        assert words in told.getvalue()
