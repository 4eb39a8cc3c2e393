"""The picture of a comparison: similarity along the layers, a line per candidate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..similarity.registry import METRIC_NAMES
from ..storage.atomic import write_atomic
from .style import literal, named

_MOST_NAMED = 8  # candidates that get a line of the legend each


@literal
def save_comparison(table: pd.DataFrame, layers: Sequence[str], path: str | Path, metric: str | None = None) -> None:
    """Draw similarity per layer to a file.

    Args:
        table: candidate, depth, metric, value.
        layers: their names in order of execution.
        path: its ending is a format that matplotlib knows.
        metric: one of the table's; None draws each in a panel of its own.

    Raises:
        ValueError: another metric, or an ending that stands for no format.
    """
    known = list(table["metric"].unique())
    if metric is not None and metric not in known:
        raise ValueError(f"the table has no metric {metric!r}; it has {', '.join(known)}")
    metrics = known if metric is None else [metric]
    shown = [named(name) for name in layers]
    width = min(16.0, 3.5 + 0.45 * len(layers))
    figure = Figure(figsize=(width, 0.8 + 3.2 * len(metrics)), layout="constrained")
    form = Path(path).suffix[1:].lower()
    if form not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{path} ends in {Path(path).suffix!r}; expected a picture such as .png, .pdf or .svg")
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, metrics, strict=True):
        _draw(axes, table, name)
    panels[-1].set_xticks(range(len(layers)), shown, rotation=90 if max(map(len, shown)) > 6 else 0)
    panels[-1].set_xlabel("layer")
    _name_candidates(panels[0], list(table["candidate"].unique()))
    write_atomic(path, lambda stream: figure.savefig(stream, format=form, dpi=150))


def _name_candidates(axes: Axes, candidates: list[str]) -> None:
    """By a legend where they are few, in the title otherwise."""
    if 1 < len(candidates) <= _MOST_NAMED:
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        return
    title = f"{named(candidates[0])} and the reference"
    if len(candidates) > 1:
        title = f"{len(candidates)} candidates, {named(candidates[0])} to {named(candidates[-1])} (darker)"
    axes.set_title(title, fontsize="medium")


def _draw(axes: Axes, table: pd.DataFrame, metric: str) -> None:
    rows = table[table["metric"] == metric]
    candidates = list(rows["candidate"].unique())
    few = len(candidates) <= _MOST_NAMED
    for k, candidate in enumerate(candidates):
        line = rows[rows["candidate"] == candidate].sort_values("depth")
        shade: Any = f"C{k}" if few else colormaps["viridis_r"](0.1 + 0.9 * k / (len(candidates) - 1))
        axes.plot(line["depth"], line["value"], marker="o", markersize=4, color=shade, label=named(candidate))
    axes.set_ylabel(METRIC_NAMES.get(metric, named(metric)))
    values = rows["value"].dropna()
    lowest, highest = values.min() if len(values) else 0.0, values.max() if len(values) else 0.0
    axes.set_ylim(min(0.0, lowest), 1.04 * max(1.0, highest))  # distances may be above 1
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
