"""What the study's pictures have in common: colours, markers, axes, and the check of the table they are drawn from."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure

from ..storage.atomic import write_atomic
from ..text import printable

MARKERS = {"conv": "o", "pool": "s", "fc": "D"}
# Colour-blind eyes see these as different.
LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
GREY = "#666666"
DASHED = (0, (4, 3))


# A decorator: the function draws text as it is, whatever the user's matplotlibrc says, and "$" begins no mathematics. A
# Text decides when it is made, and the labels of ticks are made as late as when the figure is written.
literal = rc_context({"text.parse_math": False, "text.usetex": False})


def named(text: object) -> str:
    """The name of a layer, network or metric as a picture can show it, in a legend too."""
    shown = printable(text)
    return f" {shown}" if shown.startswith("_") else shown  # matplotlib hides what begins with an underscore


@dataclass(frozen=True)
class Shades:
    """Light to dark, one shade per level from 0 to ``last``, none so light that it is lost on white paper."""

    last: int

    @property
    def colours(self) -> Colormap:
        """One colour per level."""
        return ListedColormap(colormaps["viridis_r"](np.linspace(0.12, 1.0, self._count)))

    @property
    def norm(self) -> BoundaryNorm:
        """Which of them a level has."""
        return BoundaryNorm(np.arange(self._count + 1) - 0.5, self._count)

    def __call__(self, level: object) -> Any:
        """The colour of one level."""
        return self.colours(self.norm(int(str(level))))

    @property
    def _count(self) -> int:
        return max(self.last + 1, 2)


def level_lines(
    axes: Axes, table: pd.DataFrame, value: str, shades: Shades, *, room: int = 9, size: float = 4.0
) -> None:
    """A value along the layers: medians over replicates, one line per level, and the dashed median of the control.

    Args:
        axes: drawn on.
        table: level, control, layer, kind, depth and the column ``value``, of one problem.
        value: the name of that column.
        shades: of the levels.
        room: how many names of layers fit beside each other; more are slanted.
        size: of the markers, in points.
    """
    layers = table.drop_duplicates("layer").sort_values("depth", kind="stable")
    names, kinds = layers["layer"].tolist(), layers["kind"].tolist()
    for level, rows in table[~table["control"]].groupby("level"):
        line = rows.groupby("layer")[value].median().reindex(names).to_numpy()
        colour = shades(level)
        axes.plot(range(len(line)), line, color=colour, linewidth=1.4, zorder=2)
        for kind, marker in MARKERS.items():
            layers_of_kind = [i for i, found in enumerate(kinds) if found == kind]
            axes.plot(layers_of_kind, line[layers_of_kind], marker, color=colour, markersize=size, zorder=3)
    control = table[table["control"]]
    if len(control):
        line = control.groupby("layer")[value].median().reindex(names).to_numpy()
        label = "retrained without pruning"
        axes.plot(range(len(line)), line, color=GREY, linestyle=DASHED, linewidth=1.3, label=label, zorder=4)
    layer_ticks(axes, names, room)
    axes.set_xlim(-0.4, len(names) - 0.6)
    tidy(axes)


def level_bar(figure: Figure, panels: Sequence[Axes], shades: Shades) -> None:
    """The bar that says which shade is which level, beside the panels."""
    mappable, last = ScalarMappable(shades.norm, shades.colours), shades.last
    bar = figure.colorbar(mappable, ax=list(panels), label="pruning iteration", pad=0.02)
    bar.set_ticks(np.unique(np.linspace(0, last, min(last, 10) + 1).round()).tolist())
    bar.minorticks_off()


def layer_ticks(axes: Axes, layers: Sequence[str], room: int = 9) -> None:
    """The names of the layers along the x axis: slanted where there are more than ``room``, upright where far more."""
    crowd, names = len(layers) / room, [named(name) for name in layers]
    if crowd <= 1:
        axes.set_xticks(range(len(layers)), names)
    else:
        slant = 60 if crowd <= 2.2 else 90
        axes.set_xticks(range(len(layers)), names, rotation=slant, ha="right" if slant == 60 else "center")
    if 1 < crowd <= 2.2:
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    axes.tick_params(axis="x", labelsize="small" if crowd <= 2.2 else "x-small" if crowd <= 6 else "xx-small")


def unit_axis(axes: Axes, values: pd.Series) -> None:
    """The y axis from 0 to 1, or from where the values begin when some are negative."""
    low = float(values.min())
    axes.set_ylim(min(0.0, low - 0.02) if np.isfinite(low) else 0.0, 1.02)
    axes.set_yticks(np.linspace(0, 1, 6))


def tidy(axes: Axes) -> None:
    """No frame at the top and right, a faint grid across."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def layer_names(table: pd.DataFrame) -> list[str]:
    """The layers of a table from input to output."""
    return table.sort_values("depth", kind="stable")["layer"].drop_duplicates().tolist()


def require(table: pd.DataFrame, *columns: str) -> None:
    """Check that a table can be drawn.

    Args:
        table: of one or several networks.
        columns: that it must have besides ``replicate``, ``level`` and ``control``, which every table has.

    Raises:
        ValueError: it has no rows, or lacks a column.
    """
    missing = [column for column in ("replicate", "level", "control", *columns) if column not in table.columns]
    if missing or table.empty:
        what = f"lacks the columns {', '.join(missing)}" if missing else "has no rows"
        raise ValueError(f"the table {what}; expected one of the tables of a run directory")


@literal
def as_svg(figure: Figure) -> bytes:
    """The figure as one SVG file that needs no font; the same figure gives the same bytes."""
    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "prunecca", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


@literal
def save(
    figure: Figure,
    path: str | os.PathLike[str],
    *,
    kinds: Sequence[str] = ("png", "pdf"),
    within: Path | None = None,
) -> list[Path]:
    """Write the figure as ``path``.png (200 dots per inch) and ``path``.pdf, each whole or not at all.

    Args:
        figure: what is drawn.
        path: of the files, without their endings.
        kinds: the endings.
        within: the folder below which no link is followed, see ``storage.regular_files``.

    Returns:
        What was written. The same figure gives the same bytes.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    written = []
    for kind in kinds:
        target = path.with_name(f"{path.name}.{kind}")
        # Without the date, the same tables give the same bytes.
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}

        def write(stream: BinaryIO, kind: str = kind, metadata: dict[str, None] = metadata) -> None:
            figure.savefig(stream, format=kind, dpi=200, metadata=metadata)

        write_atomic(target, write, within)
        written.append(target)
    return written
