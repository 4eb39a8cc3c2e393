"""``prunecca report``: the page of a study from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..text import console, printable
from .interruption import interruptible
from .outputs import check_folder


def report(
    run_directories: Annotated[
        list[Path],
        typer.Argument(
            help="Folder made by `prunecca reproduce`, also unfinished, or its tables and config.json; several with "
            "replicates of one study are read as one, those made with other options are laid side by side.",
            metavar="RUN_DIRECTORY...",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder of the page and figures.", show_default="RUN_DIRECTORY/report, or side-by-side"
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="Of the claims and main figures.", show_default="svcca, or the first there is"),
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", help="Loss of accuracy, from 0 to 1, that counts as comparable.")
    ] = 0.02,
) -> None:
    """Write one HTML page about a study, or about several side by side: figures, tables, and a verdict on each claim."""
    with interruptible(lambda: "interrupted; what was written so far is whole, and the same command writes the rest"):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        check_folder(out if out is not None else run_directories[0])
        from ..report.claims import FAILS, HOLDS, UNDECIDED
        from ..report.report import write

        bar = Progress(
            TextColumn("figures"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            console=console(stderr=True),
            transient=True,
        )
        with bar:
            task = bar.add_task("", total=None)
            written = write(
                run_directories,
                out,
                metric=metric,
                margin=margin,
                message=lambda text: typer.echo(printable(text), err=True),
                progress=lambda done, total, name: bar.update(task, completed=done, total=total, description=name),
            )
    verdicts = [claim.verdict for claim in written.claims]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (HOLDS, FAILS, UNDECIDED))
    typer.echo(f"page     {printable(written.page)}")
    typer.echo(f"figures  {printable(written.page.parent / 'figures')}")
    for table in written.tables:
        if table != written.table:
            typer.echo(f"table    {printable(table)}")
    typer.echo(f"claims   {printable(written.table)} ({counts})")
