"""Every layer of a reference against every layer of a candidate, as a heat map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..similarity.registry import METRIC_NAMES
from .layer_labels import label_inches, label_layers
from .layer_pairs import chosen_candidates, chosen_metric, is_distance, matrix, only_namesakes
from .output import Target, new_figure, picture_form, write_picture
from .style import literal, named

MISSING = "#e4e4e4"
_NUMBERED = 12  # layers up to which cells are wide enough for numbers
_MOST_ACROSS = 3  # panels beside each other
_WIDEST = {1: 9.5, 2: 7.0, 3: 5.5}  # inches of a panel, by how many are beside each other
_CELL, _NUMBERED_CELL, _LEAST = 0.2, 0.44, 1.6


def colour_scale(metric: str, values: np.ndarray) -> Normalize:
    """From 0 to 1 for similarities, so that pictures can be compared, and from 0 to the greatest for distances."""
    known = values[np.isfinite(values)]
    greatest = float(known.max()) if known.size else 1.0
    # A metric of the user's own may be a distance by another name.
    return Normalize(0.0, greatest if greatest > 1.02 or (is_distance(metric) and greatest > 0) else 1.0)


@literal
def heatmap(
    table: pd.DataFrame,
    metric: str | None = None,
    candidate: str | None = None,
    *,
    path: Target | None = None,
    axes: Axes | None = None,
) -> Axes | Figure:
    """Draw the reference's layers down and a candidate's across, a panel for each candidate.

    Args:
        table: of a comparison.
        metric: one of the table's; None where it has one.
        candidate: one of the table's; None draws all.
        path: where the picture is written, if anywhere.
        axes: what one candidate is drawn on; None makes a figure.

    Returns:
        The axes of the one panel, or the figure of several.

    Raises:
        ValueError: the table has no such metric or candidate, or only namesakes; several candidates for one ``axes``; a
            path that stands for no picture.
    """
    if path is not None:
        picture_form(path)
    metric, candidates = chosen_metric(table, metric), chosen_candidates(table, candidate)
    if only_namesakes(table) and table["layer"].nunique() > 1:
        raise ValueError(
            'the table has each layer with one other alone; a heat map needs every pair: compare(..., pairs="all")'
        )
    values = [matrix(table, metric, name) for name in candidates]
    if axes is not None and len(candidates) > 1:
        raise ValueError(
            f"there are {len(candidates)} candidates for one ax; name one, as in candidate={candidates[0]!r}"
        )
    norm = colour_scale(metric, np.concatenate([v.to_numpy().ravel() for v in values]))
    across = min(len(values), _MOST_ACROSS)
    sizes = [_inches(v.shape, across) for v in values]
    if axes is not None:
        figure: Any = axes.figure
        panels, sizes = [axes], [(box.width, box.height) for box in [_box(axes)]]
    else:
        down = -(-len(values) // across)
        width = max(w + label_inches(list(v.index), h) for (w, h), v in zip(sizes, values, strict=True)) + 0.5
        height = max(h + label_inches(list(v.columns), w) for (w, h), v in zip(sizes, values, strict=True)) + 0.9
        figure = new_figure(width * across + 1.2, height * down, shown=path is None)
        grid = figure.subplots(down, across, squeeze=False).ravel()
        panels = list(grid[: len(values)])
        for empty in grid[len(values) :]:
            empty.remove()
    for panel, shown, name, size in zip(panels, values, candidates, sizes, strict=True):
        reliable = matrix(table, metric, name, "reliable").to_numpy() if "reliable" in table else None
        _draw(panel, shown, reliable, norm, reverse=is_distance(metric))
        label_layers(panel, "y", list(shown.index), size[1], "layer of the reference")
        marked = reliable is not None and (reliable == 0).any()
        note = "\nhatched: no more rows than directions" if marked else ""
        label_layers(panel, "x", list(shown.columns), size[0], "layer of the candidate")
        panel.set_xlabel(panel.get_xlabel() + note)
        panel.set_title(named(name), fontsize="medium")
    low = any((v.to_numpy() < norm.vmin).any() for v in values)
    image = panels[0].collections[0]
    bar = figure.colorbar(image, ax=panels, pad=0.02, aspect=30, extend="min" if low else "neither")
    bar.set_label(METRIC_NAMES.get(metric, named(metric)))
    bar.ax.get_yticklabels()
    if path is not None:
        write_picture(figure, path)
    return panels[0] if len(panels) == 1 else figure


def numbers(axes: Axes, values: np.ndarray, image: Any, centre: float = 0.0) -> None:
    """The value in every cell, in black or white, whichever can be read; the first is centred on ``centre``."""
    dark = _is_dark(image.to_rgba(values))
    for (row, column), value in np.ndenumerate(values):
        known = np.isfinite(value)
        text = "–" if not known else f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}"
        axes.text(
            column + centre,
            row + centre,
            text,
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if known and dark[row, column] else "black",
        )


def _draw(axes: Axes, values: pd.DataFrame, reliable: np.ndarray | None, norm: Normalize, *, reverse: bool) -> None:
    cells = values.to_numpy()
    rows, columns = cells.shape
    colours = colormaps["viridis_r" if reverse else "viridis"].with_extremes(bad=MISSING)  # bright is alike
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    line = {"edgecolors": "white", "linewidth": 0.6} if max(rows, columns) <= 30 else {"rasterized": True}
    image = axes.pcolormesh(*edges, np.ma.masked_invalid(cells), norm=norm, cmap=colours, **line)
    axes.set_facecolor(MISSING)
    if reliable is not None:
        dark = _is_dark(image.to_rgba(cells))
        for colour, where in (("white", dark), ("black", ~dark)):
            hatched = (reliable == 0) & where
            if hatched.any():
                ghost = np.ma.masked_where(~hatched, np.zeros(cells.shape))
                axes.pcolor(*edges, ghost, hatch="///", facecolor="none", edgecolor=colour, linewidth=0, alpha=0.45)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.tick_params(length=0 if max(rows, columns) <= 30 else 2)
    axes.spines[:].set_visible(False)
    if max(rows, columns) <= _NUMBERED:
        numbers(axes, cells, image)


def _is_dark(colours: Any) -> Any:
    return np.asarray(colours)[..., :3] @ (0.299, 0.587, 0.114) < 0.5


def _inches(shape: tuple[int, ...], across: int) -> tuple[float, float]:
    cell = _NUMBERED_CELL if max(shape) <= _NUMBERED else _CELL
    rows, columns = (min(_WIDEST[across], max(_LEAST, cell * side)) for side in shape)
    return columns, rows


def _box(axes: Axes) -> Any:
    figure: Any = axes.figure
    return axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
