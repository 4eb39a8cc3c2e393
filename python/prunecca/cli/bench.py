"""``prunecca bench``: the two-minute benchmark from the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from ..text import console
from .interruption import interruptible


def bench(
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write a roofline picture there, .png, .pdf or .svg.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="For each contest, besides its checks.", min=0.0)] = 5.0,
) -> None:
    """Measure this machine and the main kernels beside the usual ways, in about two minutes.

    Results are checked against each other first. The table can be pasted into an issue.
    """
    if not math.isfinite(seconds):
        raise ValueError(f"--seconds is {seconds}; expected a number of seconds, such as 5")
    _check_outputs(plot, json_file)
    contests: dict[str, Any] = {}
    with interruptible(lambda: f"interrupted after {len(contests)} contests"):
        from rich.progress import Progress

        from ..bench.roofline import draw_roofline
        from ..bench.suite import as_table, machine_and_peaks, measure, probe_again, selection
        from ..storage.atomic import write_atomic

        chosen = selection()
        with Progress(console=console(stderr=True), transient=True) as progress:
            task = progress.add_task("peaks of the machine", total=len(chosen) + 1)
            results = {**machine_and_peaks(), "contests": contests}
            for title, make in chosen:
                progress.update(task, advance=1, description=title)
                contests.update(measure([(title, make)], seconds))
                probe_again(results)
    typer.echo(as_table(results))
    if json_file is not None:
        write_atomic(json_file, json.dumps(results, indent=1).encode())
    if plot is not None:
        draw_roofline(results, plot)


def _check_outputs(plot: Path | None, json_file: Path | None) -> None:
    """Refuse what could not be written, before minutes are spent on it."""
    from ..figures.output import picture_form
    from .outputs import check_file

    if plot is not None:
        picture_form(plot)
    if plot is not None and json_file is not None and plot.resolve() == json_file.resolve():
        raise ValueError(f"--plot and --json both name {plot}; expected two files")
    for path in (plot, json_file):
        if path is not None:
            check_file(path)
