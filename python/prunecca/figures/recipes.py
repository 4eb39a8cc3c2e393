"""Pictures of several ways of pruning one problem: accuracy against density, similarity at equal density, the controls.

All are functions of the tidy tables of a study with one more column, ``run``, and return a matplotlib Figure. A run has the
same colour, marker and kind of line in all of them.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..similarity.registry import METRIC_NAMES
from .study import percent_ticks
from .style import DASHED, GREY, LINES, layer_names, layer_ticks, literal, named, require, tidy, unit_axis

FEW = 4  # runs whose bands can still be told apart where they lie on each other
PANELS = 6  # densities at which similarity is drawn

_MARKERS = "osD^vPXh<>*p"
_FAINT = "#cccccc"
_DOTTED = (0, (1.2, 1.4))


@dataclass(frozen=True)
class Look:
    """How a run is drawn: no two of twelve are alike."""

    colour: str
    marker: str
    dash: Any

    @property
    def line(self) -> dict[str, Any]:
        """The same, as matplotlib takes it."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.dash,
            "markersize": 4.5,
            "linewidth": 1.4,
        }


def look(number: int) -> Look:
    """The look of the run at a place in the order."""
    dash = ["-", DASHED, _DOTTED][number // len(LINES) % 3]
    return Look(LINES[number % len(LINES)], _MARKERS[number % len(_MARKERS)], dash)


@literal
def accuracy_by_recipe(levels: pd.DataFrame, runs: Sequence[str]) -> Figure:
    """Test accuracy against density: one curve of medians per run, from the unpruned network on.

    With up to ``FEW`` runs, bands reach from the least to the greatest replicate. The dashed line is the unpruned
    accuracy where all runs share it.

    Args:
        levels: rows of the table ``levels`` of one problem, with the column ``run``.
        runs: its values, in order.
    """
    require(levels, "run", "density", "test_accuracy")
    longest = max(map(len, runs))
    columns = _columns(len(runs) + 1, longest, 90)
    figure = Figure(figsize=(6.6, 4.0 + 0.2 * -(-(len(runs) + 1) // columns)), layout="constrained")
    axes = figure.subplots()
    for number, (run, curve) in enumerate(_curves(levels, runs)):
        if curve.empty:
            continue
        own = look(number)
        axes.plot(curve["density"], curve["median"], label=named(run), zorder=3, **own.line)
        if len(runs) <= FEW:
            axes.fill_between(
                curve["density"], curve["least"], curve["greatest"], color=own.colour, alpha=0.15, linewidth=0
            )
    unpruned = levels.loc[~levels["control"] & (levels["level"] == 0), "test_accuracy"].unique()
    if len(unpruned) == 1:
        axes.axhline(unpruned[0], color=GREY, linestyle=DASHED, linewidth=1, label="unpruned", zorder=1)
    _density_axes(axes, levels)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
    return figure


@literal
def accuracy_one_by_one(levels: pd.DataFrame, runs: Sequence[str]) -> Figure:
    """A panel per run: its accuracy with a band over replicates, its controls, and all other runs in grey.

    Args:
        levels: rows of the table ``levels`` of one problem, with the column ``run``.
        runs: its values, in order.
    """
    require(levels, "run", "density", "test_accuracy")
    curves = list(_curves(levels, runs))
    figure, panels = _grid(len(runs), height=2.3, sharey=True)
    for number, (axes, (run, curve)) in enumerate(zip(panels, curves, strict=True)):
        for other, its in curves:
            if other != run and not its.empty:
                axes.plot(its["density"], its["median"], color=_FAINT, linewidth=0.9, zorder=1)
        own = look(number)
        if not curve.empty:
            axes.fill_between(
                curve["density"], curve["least"], curve["greatest"], color=own.colour, alpha=0.2, linewidth=0
            )
            axes.plot(curve["density"], curve["median"], zorder=3, **own.line)
        control = levels[levels["control"] & (levels["run"] == run)]
        if len(control):
            axes.axhline(control["test_accuracy"].median(), color=GREY, linestyle=DASHED, linewidth=1.1, zorder=2)
        _density_axes(axes, levels, small=True)
        axes.set_title(_title(run), fontsize="small")
        if number % 3:
            axes.set_ylabel("")
        if number + 3 < len(runs):
            axes.set_xlabel("")
    return figure


@literal
def similarity_by_recipe(similarity: pd.DataFrame, meetings: pd.DataFrame, runs: Sequence[str], metric: str) -> Figure:
    """Similarity of every layer with the unpruned network: a panel per density that runs share, a line per run.

    Points are medians over replicates; with up to ``FEW`` runs, bars reach from the least to the greatest.

    Args:
        similarity: rows of the table ``similarity`` of one problem and metric, with the column ``run``.
        meetings: meeting, shared (density), run, level, density; at most ``PANELS`` of them are drawn, see ``drawn``.
        runs: all runs, in order.
        metric: the name of the metric.

    Raises:
        ValueError: there is no meeting of two runs whose similarity is known.
    """
    require(similarity, "run", "layer", "depth", "value")
    shown = drawn(meetings)
    if not shown:
        raise ValueError("no two runs have a level of about the same density; expected meetings of at least two")
    layers = layer_names(similarity)
    wide = len(layers) > 7 or len(runs) > FEW
    figure, panels = _grid(len(shown), height=3.3 if wide else 2.7, columns=2 if wide else 3, sharey=True)
    places = meetings.loc[meetings["meeting"].isin(shown), ["run", "level"]]
    values = similarity[~similarity["control"]].merge(places, on=["run", "level"])["value"]
    handles: dict[str, Any] = {}
    for axes, meeting in zip(panels, shown, strict=True):
        members = meetings[meetings["meeting"] == meeting]
        names = [run for run in runs if run in set(members["run"])]
        for place, run in enumerate(names):
            level = int(members.loc[members["run"] == run, "level"].iloc[0])
            rows = similarity[(similarity["run"] == run) & ~similarity["control"] & (similarity["level"] == level)]
            if rows.empty:
                continue
            shift = (place - (len(names) - 1) / 2) * 0.07 if len(runs) <= FEW else 0.0
            bars = len(runs) <= FEW and rows["replicate"].nunique() > 1
            handles[run] = _layer_points(axes, rows, layers, look(list(runs).index(run)), shift, bars=bars)
        _layer_axes(axes, layers, values, metric)
        axes.set_title(f"{100 * members['shared'].iloc[0]:.3g} % of the parameters left", fontsize="medium")
    names = [run for run in runs if run in handles]
    figure.legend(
        [handles[run] for run in names],
        [named(run) for run in names],
        loc="outside lower center",
        ncols=_columns(len(names), max(map(len, names)), 90 if len(shown) > 1 else 60),
        frameon=False,
        fontsize="small",
    )
    return figure


@literal
def controls_by_recipe(similarity: pd.DataFrame, last: pd.DataFrame, runs: Sequence[str], metric: str) -> Figure:
    """A panel per run that has a control: networks retrained without pruning beside the pruned ones, layer by layer.

    Args:
        similarity: rows of the table ``similarity`` of one problem and metric, with the column ``run``.
        last: run, level and density of the level that is drawn of each run.
        runs: all runs, in order.
        metric: the name of the metric.

    Raises:
        ValueError: there is no control.
    """
    require(similarity, "run", "layer", "depth", "value")
    having = set(similarity.loc[similarity["control"], "run"])
    if not having:
        raise ValueError("there is no control to draw; expected a table with networks retrained without pruning")
    layers = layer_names(similarity)
    shown = [(number, run) for number, run in enumerate(runs) if run in having]
    figure, panels = _grid(len(shown), height=2.6, columns=2 if len(layers) > 7 else 3, sharey=True)
    for axes, (number, run) in zip(panels, shown, strict=True):
        own = similarity[similarity["run"] == run]
        control = own[own["control"]]
        grey = Look(GREY, "D", DASHED)
        _layer_points(axes, control, layers, grey, -0.06, bars=control["level"].nunique() > 1)
        place = last[last["run"] == run]
        title = run
        if len(place):
            pruned = own[~own["control"] & (own["level"] == int(place["level"].iloc[0]))]
            if len(pruned):
                _layer_points(axes, pruned, layers, look(number), 0.06, bars=pruned["replicate"].nunique() > 1)
                title += f"\n{100 * place['density'].iloc[0]:.3g} % left"
        _layer_axes(axes, layers, similarity["value"], metric)
        axes.set_title(_title(title), fontsize="small")
    return figure


def drawn(meetings: pd.DataFrame) -> list[int]:
    """The numbers of the meetings that are drawn: all, or ``PANELS`` of them from the greatest density to the least."""
    numbers = sorted(int(number) for number in meetings["meeting"].unique())
    if len(numbers) <= PANELS:
        return numbers
    return [numbers[place] for place in np.linspace(0, len(numbers) - 1, PANELS).round().astype(int)]


def _curves(levels: pd.DataFrame, runs: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Density, median, least and greatest accuracy of every level of a run."""
    for run in runs:
        groups = levels[(levels["run"] == run) & ~levels["control"]].groupby("level")
        accuracy = groups["test_accuracy"].agg(median="median", least="min", greatest="max")
        yield run, accuracy.assign(density=groups["density"].median())


def _layer_points(axes: Axes, rows: pd.DataFrame, layers: list[str], own: Look, shift: float, *, bars: bool) -> Any:
    """Medians along the layers, with bars from the least to the greatest network where they are asked for."""
    values = rows.groupby("layer")["value"]
    low, middle, high = (end.reindex(layers).to_numpy() for end in (values.min(), values.median(), values.max()))
    reach = [middle - low, high - middle] if bars else None
    return axes.errorbar(np.arange(len(layers)) + shift, middle, reach, elinewidth=0.9, capsize=2, **own.line)


def _layer_axes(axes: Axes, layers: Sequence[str], values: pd.Series, metric: str) -> None:
    layer_ticks(axes, layers, 6)
    axes.set_xlim(-0.4, len(layers) - 0.6)
    tidy(axes)
    unit_axis(axes, values)
    low = float(values.min())
    if 0.1 < low < 1:  # the runs are told apart where all of them are similar
        axes.set_ylim(bottom=math.floor(10 * low - 0.2) / 10)
        axes.yaxis.set_major_locator(MaxNLocator(6))
    if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]  # axes of a figure's grid have one
        axes.set_ylabel(METRIC_NAMES.get(metric, named(metric)))


def _density_axes(axes: Axes, levels: pd.DataFrame, *, small: bool = False) -> None:
    axes.set_xscale("log")
    axes.set_xlim(1.06, max(float(levels["density"].min()), 1e-4) * 0.94)
    percent_ticks(axes, levels["density"])
    axes.set_xlabel("parameters left", fontsize="small" if small else None)
    axes.set_ylabel("test accuracy", fontsize="small" if small else None)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    if small:
        axes.tick_params(labelsize="x-small")
    tidy(axes)


def _grid(count: int, *, height: float, columns: int = 3, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """As many panels as asked for, from left to right and down."""
    columns = 2 if count in (2, 4) else min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(10.5 if columns > 1 else 5.6, height * rows + 0.7), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel())
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def _title(text: str) -> str:
    """A label in lines that are as wide as a panel."""
    return "\n".join(textwrap.fill(named(line), 40) for line in text.split("\n"))


def _columns(count: int, longest: int, room: int) -> int:
    """How many entries of a legend fit beside each other, in ``room`` letters."""
    return max(1, min(count, 4, room // (longest + 8)))
