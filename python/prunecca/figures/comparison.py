"""The picture of a comparison: similarity along the layers, a line per candidate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..similarity.registry import METRIC_NAMES
from .layer_labels import label_inches, label_layers
from .layer_pairs import along_the_layers, chosen_metric
from .output import Target, new_figure, picture_form, write_picture
from .style import literal, named

_MOST_NAMED = 8  # candidates that get a line of the legend each
_WIDEST = 16.0  # inches


@literal
def draw_comparison(
    table: pd.DataFrame,
    metric: str | None = None,
    *,
    path: Target | None = None,
    axes: Axes | None = None,
) -> Axes | Figure:
    """Draw similarity per layer.

    Args:
        table: candidate, layer, depth, metric, value.
        metric: one of the table's; None draws each in a panel of its own.
        path: where the picture is written, if anywhere; its ending is a format that matplotlib knows.
        axes: what one metric is drawn on; None makes a figure.

    Returns:
        The axes of the one panel, or the figure of several.

    Raises:
        ValueError: another metric, several metrics for one ``axes``, or an ending that stands for no format.
    """
    if metric is not None or axes is not None:
        metrics = [chosen_metric(table, metric, "plot")]
    else:
        metrics = [str(name) for name in table["metric"].unique()]
    if path is not None:
        if path in list(table["metric"]):
            raise ValueError(f"{path} is a metric, and the first argument is a file; give it as metric={path!r}")
        picture_form(path)
    rows = along_the_layers(table)
    layers = [str(name) for name in rows.sort_values("depth", kind="stable")["layer"].unique()]
    panels: list[Axes]
    if axes is not None:
        figure: Any = axes.figure
        panels = [axes]
        width = axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted()).width
    else:
        width = min(_WIDEST, 3.5 + 0.45 * len(layers))
        below = label_inches(layers, 0.85 * width)
        figure = new_figure(width, 0.7 + 3.2 * len(metrics) + below, shown=path is None)
        panels = list(figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0])
    for panel, name in zip(panels, metrics, strict=True):
        _draw(panel, rows[rows["metric"] == name], layers, name)
    label_layers(panels[-1], "x", layers, 0.85 * width, "layer")
    if "reliable" in rows and not rows.loc[rows["metric"].isin(metrics), "reliable"].all():
        panels[-1].set_xlabel(f"{panels[-1].get_xlabel()}\nhollow: no more rows than directions")
    _name_candidates(panels[0], list(rows["candidate"].unique()))
    for panel in panels:
        panel.get_yticklabels()
    if path is not None:
        write_picture(figure, path)
    return panels[0] if len(panels) == 1 else figure


def _name_candidates(axes: Axes, candidates: list[str]) -> None:
    """By a legend where they are few, in the title otherwise."""
    if 1 < len(candidates) <= _MOST_NAMED:
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        return
    title = f"{named(candidates[0])} and the reference"
    if len(candidates) > 1:
        title = f"{len(candidates)} candidates, {named(candidates[0])} to {named(candidates[-1])} (darker)"
    axes.set_title(title, fontsize="medium")


def _draw(axes: Axes, rows: pd.DataFrame, layers: list[str], metric: str) -> None:
    candidates = list(rows["candidate"].unique())
    few = len(candidates) <= _MOST_NAMED
    size = 4.0 if len(layers) <= 40 else 2.5
    for k, candidate in enumerate(candidates):
        own = rows[rows["candidate"] == candidate].set_index("layer").reindex(layers)
        line = own["value"].astype("float64").to_numpy()
        shade: Any = f"C{k}" if few else colormaps["viridis_r"](0.1 + 0.9 * k / (len(candidates) - 1))
        places = np.arange(len(layers))
        axes.plot(places, line, marker="o", markersize=size, linewidth=1.4, color=shade, label=named(candidate))
        hollow = (own["reliable"] == False).to_numpy() if "reliable" in own else np.zeros(len(layers), bool)  # noqa: E712
        if hollow.any():  # not of layers that are missing, which are neither
            axes.plot(places[hollow], line[hollow], "o", markersize=size, color=shade, markerfacecolor="white")
    axes.set_ylabel(METRIC_NAMES.get(metric, named(metric)))
    values = rows["value"].dropna()
    lowest, highest = values.min() if len(values) else 0.0, values.max() if len(values) else 0.0
    axes.set_ylim(min(0.0, lowest), 1.04 * max(1.0, highest))  # distances may be above 1
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
