"""What a notebook shows of a comparison: a small picture and the first values, as HTML."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np
import pandas as pd

from ..figures.layer_pairs import matrix, only_namesakes
from ..text import printable

_MOST_ROWS, _MOST_COLUMNS = 40, 12
_UNRELIABLE = " (!)"
_MOST_PANELS = 3


def page(table: pd.DataFrame) -> str:
    """A picture of the table, and per candidate its values: layers down, and across metrics or the candidate's layers."""
    if table.empty:
        return "<p>a comparison without values</p>"
    pairs = not only_namesakes(table)
    parts = [_picture(table, pairs)]
    blocks = [(str(name), rows) for name, rows in table.groupby("candidate", sort=False)]
    room, left_out = _MOST_ROWS, 0
    for candidate, rows in blocks:
        metrics = [str(name) for name in rows["metric"].unique()]
        for metric in metrics if pairs else [None]:
            shown = _cells(rows, candidate, [metric] if metric else metrics, pairs)
            if room <= 0:
                left_out += len(shown)
                continue
            title = f"{candidate}, {metric}" if metric else candidate
            parts.append(f"<p><b>{html.escape(printable(title))}</b></p>")
            parts.append(shown.head(room).to_html(border=0, na_rep=""))
            left_out += max(0, len(shown) - room)
            room -= len(shown)
    notes = []
    if "reliable" in table and not table["reliable"].all():
        notes.append(f"{_UNRELIABLE.strip()}: no more rows than directions, so that the value means nothing.")
    if left_out:
        notes.append(f"{left_out} more rows; <code>.table</code> has all.")
    return "\n".join([*parts, *(f"<p>{note}</p>" for note in notes)])


def _cells(rows: pd.DataFrame, candidate: str, metrics: list[str], pairs: bool) -> pd.DataFrame:
    """Values as text, in four digits, with a mark where they are unreliable."""
    if pairs:
        values, reliable = (_of(rows, candidate, metrics[0], name) for name in ("value", "reliable"))
    else:
        columns = {name: rows[rows["metric"] == name].set_index("layer") for name in metrics}
        values = pd.DataFrame({name: column["value"] for name, column in columns.items()})
        reliable = pd.DataFrame({name: column.get("reliable", column["value"]) for name, column in columns.items()})
        order = rows.sort_values("depth", kind="stable")["layer"].unique()
        values, reliable = values.reindex(order), reliable.reindex(order)
    numbers: Any = values.to_numpy(dtype="float64")
    trusted: Any = reliable.fillna(1).to_numpy() if "reliable" in rows else np.ones(numbers.shape)
    cells = [
        ["" if np.isnan(value) else f"{value:.4f}{'' if ok else _UNRELIABLE}" for value, ok in zip(*line, strict=True)]
        for line in zip(numbers, trusted, strict=True)
    ]
    shown = pd.DataFrame(cells, index=[*map(printable, values.index)], columns=[*map(printable, values.columns)])
    shown.index.name = "layer"
    if shown.shape[1] <= _MOST_COLUMNS:
        return shown
    first = shown.iloc[:, :_MOST_COLUMNS].copy()
    first["…"] = f"{shown.shape[1] - _MOST_COLUMNS} more"
    return first


def _of(rows: pd.DataFrame, candidate: str, metric: str, column: str) -> pd.DataFrame:
    return matrix(rows, metric, candidate, column if column in rows else "value")


def _picture(table: pd.DataFrame, pairs: bool) -> str:
    """The heat map of the first metric, or the lines of all, within the page."""
    stream = io.BytesIO()
    if pairs:
        from ..figures.heatmap import heatmap  # matplotlib takes a while to import

        few = table["candidate"].nunique() <= _MOST_PANELS
        heatmap(table, table["metric"].iloc[0], None if few else table["candidate"].iloc[0], path=stream)
    else:
        from ..figures.comparison import draw_comparison

        draw_comparison(table, path=stream)
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="similarity of the layers" style="max-width: 100%" src="data:image/png;base64,{data}">'
