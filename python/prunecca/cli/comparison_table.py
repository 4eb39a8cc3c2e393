"""A comparison on a terminal: layers down, metrics across, or the layers of both networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from rich.table import Table

from ..figures.layer_pairs import is_distance, matrix, only_namesakes
from ..text import console, printable

_DIGITS = 7  # of a value with its mark
_UNRELIABLE = "*"


def print_comparison(table: pd.DataFrame) -> None:
    """One block per candidate; values of no more rows than directions are marked."""
    terminal = console()
    for candidate, rows in table.groupby("candidate", sort=False):
        terminal.print(printable(candidate), style="bold", soft_wrap=True)
        pairs = "layer" in rows and not only_namesakes(rows)
        for shown in _pairs(rows, str(candidate), terminal.width) if pairs else [_lines(rows)]:
            terminal.print(shown)
    if "reliable" in table and not table["reliable"].all():
        terminal.print(f"{_UNRELIABLE} no more rows than directions, so that the value means nothing", soft_wrap=True)


def _lines(rows: pd.DataFrame) -> Table:
    metrics = list(rows["metric"].unique())
    shown = Table()
    if "layer" in rows:
        shown.add_column("layer", overflow="fold")
    for metric in metrics:
        shown.add_column(printable(metric), justify="right")
    for layer, own in rows.groupby("layer", sort=False) if "layer" in rows else [("", rows)]:
        by_metric = own.set_index("metric")
        sure = by_metric["reliable"] if "reliable" in by_metric else by_metric["value"].notna()
        cells = [_cell(float(by_metric["value"][metric]), bool(sure[metric])) for metric in metrics]
        shown.add_row(*([printable(layer)] if "layer" in rows else []), *cells)
    return shown


def _pairs(rows: pd.DataFrame, candidate: str, width: int) -> Iterator[Table]:
    """A matrix for each metric, or where it is wider than the terminal the layer of the candidate that is most alike."""
    for metric in map(str, rows["metric"].unique()):
        values = matrix(rows, metric, candidate)
        numbers = values.to_numpy()
        sure = matrix(rows, metric, candidate, "reliable").to_numpy() == 1 if "reliable" in rows else numbers == numbers
        down, across = (list(map(printable, names)) for names in (values.index, values.columns))
        shown = Table(title=printable(metric), title_justify="left")
        shown.add_column("layer", overflow="fold")
        if sum(3 + max(_DIGITS, len(name)) for name in across) + 4 + max(map(len, down)) <= width:
            for layer in across:
                shown.add_column(layer, justify="right")
            for layer, line, ok in zip(down, numbers, sure, strict=True):
                shown.add_row(layer, *map(_cell, line, ok))
        else:
            shown.add_column(f"most alike of {len(across)} layers", overflow="fold")
            shown.add_column("value", justify="right")
            distances = numbers if is_distance(metric) else -numbers
            for layer, line, ok, ranked in zip(down, numbers, sure, distances, strict=True):
                if np.isfinite(ranked).any():
                    best = int(np.nanargmin(ranked))
                    shown.add_row(layer, across[best], _cell(line[best], ok[best]))
        yield shown


def _cell(value: float, sure: bool) -> str:
    return "" if value != value else f"{value:.4f}{'' if sure else _UNRELIABLE}"
