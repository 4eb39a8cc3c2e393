"""What the study's pictures have in common: colours, markers, axes, and the check of the table they are drawn from."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure

MARKERS = {"conv": "o", "pool": "s", "fc": "D"}
LINES = [
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
]  # told apart by colour-blind eyes
GREY = "#666666"


def layer_ticks(axes: Axes, layers: Sequence[str]) -> None:
    """The names of the layers along the x axis, slanted where they are many."""
    crowded = len(layers) > 9
    axes.set_xticks(
        range(len(layers)), list(layers), rotation=60 if crowded else 0, ha="right" if crowded else "center"
    )
    if crowded:
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    axes.tick_params(axis="x", labelsize="small")


def shades(last: int) -> tuple[Colormap, BoundaryNorm]:
    """Light to dark, one shade per level, none so light that it is lost on white paper."""
    from matplotlib import colormaps

    count = max(last + 1, 2)
    shades = ListedColormap(colormaps["viridis_r"](np.linspace(0.12, 1.0, count)))
    return shades, BoundaryNorm(np.arange(count + 1) - 0.5, count)


def tidy(axes: Axes) -> None:
    """No frame at the top and right, a faint grid across."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def require(table: pd.DataFrame, columns: list[str]) -> None:
    """ValueError unless the table has rows and these columns."""
    missing = [column for column in columns if column not in table.columns]
    if missing or table.empty:
        what = f"lacks the columns {', '.join(missing)}" if missing else "has no rows"
        raise ValueError(f"the table {what}; expected one of the tables of a run directory")


def as_svg(figure: Figure) -> bytes:
    """The figure as one SVG file that needs no font; the same figure gives the same bytes."""
    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "prunecca", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
