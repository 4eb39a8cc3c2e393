"""The tables printed at the end of a study."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.table import Table

from ..report.levels import summarise
from ..text import printable


def level_tables(tables: dict[str, pd.DataFrame]) -> Iterator[Table]:
    """A table for each problem: medians over replicates, one row per level or control."""
    metric = tables["similarity"]["metric"].iloc[0]
    for problem in tables["levels"]["problem"].unique():
        table = Table(title=printable(problem), title_justify="left", title_style="bold")
        for heading in ("network", "parameters left", "test accuracy", f"{metric}: first layer", "least", "last layer"):
            table.add_column(printable(heading), justify="left" if heading == "network" else "right")
        for level in summarise(tables, problem, metric):
            table.add_row(
                f"{level.name}, not pruned" if level.control else level.name,
                f"{100 * level.density:.1f} %",
                f"{100 * level.accuracy:.2f} %",
                *(f"{value:.3f}" for value in (level.first, level.least, level.last)),
            )
        yield table
