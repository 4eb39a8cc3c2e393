"""The study's pictures: accuracy against the parameters left, and similarity per layer with one line per level.

Both are functions of the tidy tables of a study, draw without a display and return a matplotlib Figure; ``style.save``
writes it as PNG and PDF.
"""

from __future__ import annotations

import itertools

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from ..similarity.registry import METRIC_NAMES
from .style import DASHED, LINES, Shades, level_bar, level_lines, literal, named, require, tidy, unit_axis


@literal
def accuracy_figure(levels: pd.DataFrame) -> Figure:
    """Test accuracy against the fraction of parameters left: the paper's figure 1.

    The line is the median over replicates, the band reaches from the least to the greatest. The dashed line is the
    control: the same retraining without pruning.

    Args:
        levels: the table ``levels``: problem, replicate, level, control, density in (0, 1], test_accuracy in [0, 1].
    """
    require(levels, "problem", "density", "test_accuracy")
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for (problem, table), colour in zip(levels.groupby("problem", sort=False), itertools.cycle(LINES), strict=False):
        pruned = table[~table["control"]].groupby("level")
        accuracy, density = pruned["test_accuracy"], pruned["density"].median()
        replicates = table.loc[~table["control"], "replicate"].nunique()
        name = f"{named(problem)} (median of {replicates} replicates)" if replicates > 1 else named(problem)
        axes.plot(density, accuracy.median(), marker="o", markersize=4, color=colour, label=name)
        if replicates > 1:
            axes.fill_between(density, accuracy.min(), accuracy.max(), color=colour, alpha=0.18, linewidth=0)
        control = table[table["control"]]
        if len(control):
            axes.axhline(
                control["test_accuracy"].median(),
                color=colour,
                linestyle=DASHED,
                linewidth=1.1,
                label=f"{named(problem)}, retrained without pruning",
            )
    axes.set_xscale("log")
    axes.invert_xaxis()
    percent_ticks(axes, levels["density"])
    axes.set_xlabel("parameters left")
    axes.set_ylabel("test accuracy")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    # Under the axes, where no line or band can pass behind it.
    lines = len(axes.get_legend_handles_labels()[0])
    figure.legend(loc="outside lower center", ncols=min(lines, 2), frameon=False, fontsize="small")
    tidy(axes)
    return figure


@literal
def similarity_figure(similarity: pd.DataFrame, metric: str = "svcca") -> Figure:
    """Similarity of every layer with its unpruned counterpart, one line per level: the paper's figure 2.

    Lines are medians over replicates, darker with every level; level 0 is the unpruned network with itself. One
    panel per problem. The dashed line is the median of the control, the same retraining without pruning.

    Args:
        similarity: the table ``similarity``: problem, replicate, level, control, layer, kind, depth, metric, value.
        metric: which of the metrics of the table is drawn.

    Raises:
        ValueError: the table has no such metric.
    """
    require(similarity, "problem", "layer", "kind", "depth", "metric", "value")
    chosen = similarity[similarity["metric"] == metric]
    if chosen.empty:
        metrics = ", ".join(sorted(similarity["metric"].unique()))
        raise ValueError(f"the table has no metric {metric!r}; it has {metrics or 'no rows'}")
    problems = list(chosen.groupby("problem", sort=False))
    columns = min(len(problems), 2)
    rows = -(-len(problems) // columns)
    figure = Figure(figsize=(6.8 * columns, 4.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    shades = Shades(int(chosen["level"].max()))
    for axes, (problem, table) in zip(panels, problems, strict=False):
        level_lines(axes, table, "value", shades)
        if table["control"].any():
            axes.legend(frameon=False, fontsize="small", loc="lower left")
        unit_axis(axes, table["value"])
        axes.set_title(named(problem), fontsize="medium")
        axes.set_ylabel(METRIC_NAMES.get(metric, named(metric)))
    for axes in panels[len(problems) :]:
        axes.remove()
    level_bar(figure, list(panels[: len(problems)]), shades)
    return figure


def percent_ticks(axes: Axes, density: pd.Series) -> None:
    """Round percentages along a logarithmic axis of densities."""
    low = float(density.min())
    candidates = [1, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001]
    if low < 0.3:
        candidates = [1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001]
    elif low > 0.75:
        candidates = [1, 0.95, 0.9, 0.85, 0.8, 0.75]
    ticks = [value for value in candidates if value >= low * 0.95]
    axes.set_xticks(ticks, [f"{100 * value:.3g} %" for value in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(6))
