"""Pictures of one problem: similarity as a heat map, intrinsic dimension, density per layer, the control, all metrics.

All are functions of the rows of one problem in the tidy tables of a study, and return a matplotlib Figure.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ..similarity.registry import METRIC_NAMES
from .heatmap import MISSING, colour_scale, numbers
from .layer_pairs import is_distance
from .style import (
    GREY,
    LINES,
    Shades,
    layer_names,
    layer_ticks,
    level_bar,
    level_lines,
    literal,
    named,
    require,
    tidy,
    unit_axis,
)

_WIDTH = 6.0  # inches, for every picture that may stand beside another
_NUMBERED = 12  # levels up to which the cells of the heat map are wide enough for numbers
_ROOM = 6  # names of layers that fit beside each other in it


@literal
def heat_map(similarity: pd.DataFrame, metric: str = "svcca") -> Figure:
    """Median similarity with the unpruned network: layers down, levels across, the control at the right.

    Colours reach from 0 to 1, so that pictures of several problems can be compared, or from 0 to the greatest distance.

    Args:
        similarity: rows of the table ``similarity`` of one problem and one metric.
        metric: the name of the metric.
    """
    require(similarity, "layer", "depth", "value")
    layers = layer_names(similarity)
    pruned, control = similarity[~similarity["control"]], similarity[similarity["control"]]
    values = pruned.pivot_table(index="layer", columns="level", values="value", aggfunc="median", dropna=False)
    parts = [(values.reindex(layers).to_numpy(), [str(level) for level in values.columns])]
    if len(control):
        medians = control.groupby("layer")["value"].median().reindex(layers).to_numpy()
        parts.append((medians[:, None], ["control"]))
    columns = sum(part.shape[1] for part, _ in parts)
    figure = Figure(figsize=(_WIDTH, max(3.3, 1.3 + 0.3 * len(layers))), layout="constrained")
    panels = figure.subplots(
        1, len(parts), squeeze=False, sharey=True, width_ratios=[part.shape[1] for part, _ in parts]
    ).ravel()
    # What changed least is nearest to white.
    colours = colormaps["magma_r" if is_distance(metric) else "magma"].with_extremes(bad=MISSING)
    norm = colour_scale(metric, np.concatenate([part.ravel() for part, _ in parts]))
    for axes, (part, names) in zip(panels, parts, strict=True):
        cells = np.ma.masked_invalid(part)
        image = axes.pcolormesh(cells, norm=norm, cmap=colours, edgecolors="white", linewidth=0.8)
        axes.set_xticks(np.arange(len(names)) + 0.5, names)
        axes.tick_params(length=0, labelsize="small")
        axes.spines[:].set_visible(False)
        if columns <= _NUMBERED:
            numbers(axes, part, image, 0.5)
    panels[0].set_yticks(np.arange(len(layers)) + 0.5, [named(name) for name in layers])
    panels[0].set_ylim(len(layers), 0)
    panels[0].set_xlabel("pruning iteration")
    bar = figure.colorbar(image, ax=list(panels), pad=0.02)
    bar.set_label(METRIC_NAMES.get(metric, named(metric)), size="small")
    return figure


@literal
def dimension_figure(similarity: pd.DataFrame, dimension: pd.DataFrame, metric: str = "svcca") -> Figure:
    """Similarity, and under it the intrinsic dimension of the same layers; one line per level.

    The bars are standard errors of the estimates (medians over replicates), at the first and the last level.

    Args:
        similarity: rows of the table ``similarity`` of one problem and one metric.
        dimension: rows of the table ``dimension`` of that problem.
        metric: the name of the metric.
    """
    require(similarity, "layer", "kind", "depth", "value")
    require(dimension, "layer", "kind", "depth", "dimension", "error")
    figure = Figure(figsize=(_WIDTH, 6.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    shades = Shades(int(max(dimension["level"].max(), similarity["level"].max())))
    level_lines(above, similarity, "value", shades, room=_ROOM)
    unit_axis(above, similarity["value"])
    above.set_ylabel(METRIC_NAMES.get(metric, named(metric)))
    level_lines(below, dimension, "dimension", shades, room=_ROOM)
    layers = layer_names(dimension)
    pruned = dimension[~dimension["control"]]
    for level in sorted({int(pruned["level"].min()), int(pruned["level"].max())}):
        rows = pruned[pruned["level"] == level].groupby("layer")
        middle, error = (rows[name].median().reindex(layers).to_numpy() for name in ("dimension", "error"))
        below.errorbar(range(len(layers)), middle, error, fmt="none", ecolor=shades(level), elinewidth=0.9, capsize=2.5)
    below.set_ylabel("intrinsic dimension (TwoNN)")
    below.set_ylim(bottom=0)
    below.yaxis.set_major_locator(MaxNLocator(6))
    above.tick_params(axis="x", length=0)
    if dimension["control"].any() or similarity["control"].any():
        (above if similarity["control"].any() else below).legend(frameon=False, fontsize="small", loc="lower left")
    level_bar(figure, [above, below], shades)
    return figure


def pruned_modules(layers: pd.DataFrame) -> list[str]:
    """The modules that lost a parameter at some level, in the order of the network."""
    least = layers.groupby("layer", sort=False)["density"].min()
    return [str(name) for name in least.index[least < 1]]


@literal
def density_figure(layers: pd.DataFrame) -> Figure:
    """The part of its parameters that each pruned module still has, one line per level.

    Args:
        layers: rows of the table ``layers`` of one problem; modules that are never pruned are left out.

    Raises:
        ValueError: nothing was pruned.
    """
    require(layers, "layer", "density")
    names = pruned_modules(layers)
    if not names:
        raise ValueError("no module lost a parameter; expected the table of a study with at least one level")
    chosen = layers[layers["layer"].isin(names) & ~layers["control"]]
    shades = Shades(int(chosen["level"].max()))
    figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    for level, rows in chosen.groupby("level"):
        line = rows.groupby("layer")["density"].median().reindex(names)
        axes.plot(range(len(names)), line.to_numpy(), marker="o", markersize=4, linewidth=1.4, color=shades(level))
    layer_ticks(axes, names, _ROOM)
    axes.set_xlim(-0.4, len(names) - 0.6)
    tidy(axes)
    if 0 < float(chosen["density"].min()) < 0.1:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(top=1.1)
    else:
        axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    axes.set_ylabel("parameters left in the layer")
    level_bar(figure, [axes], shades)
    return figure


@literal
def control_figure(similarity: pd.DataFrame, metric: str = "svcca") -> Figure:
    """Networks retrained without pruning beside the last level of the pruned ones, layer by layer.

    Points are medians, bars reach from the least to the greatest network.

    Args:
        similarity: rows of the table ``similarity`` of one problem and one metric, with controls and pruned networks.
        metric: the name of the metric.

    Raises:
        ValueError: there is no control, or no pruned network.
    """
    require(similarity, "layer", "depth", "value")
    control = similarity[similarity["control"]]
    pruned = similarity[~similarity["control"] & (similarity["level"] > 0)]
    if control.empty or pruned.empty:
        raise ValueError(f"there is no {'control' if control.empty else 'pruned network'} to draw; expected both")
    last = int(pruned["level"].max())
    pruned = pruned[pruned["level"] == last]
    layers = layer_names(similarity)
    figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    for table, name, colour, marker, shift in (
        (control.assign(replicate=control["level"]), "retrained without pruning", GREY, "D", -0.09),
        (pruned, f"pruned {last} times" if last > 1 else "pruned once", LINES[0], "o", 0.09),
    ):
        values = table.groupby("layer")["value"]
        low, middle, high = (end.reindex(layers).to_numpy() for end in (values.min(), values.median(), values.max()))
        count = table["replicate"].nunique()
        axes.errorbar(
            np.arange(len(layers)) + shift,
            middle,
            [middle - low, high - middle],
            marker=marker,
            markersize=4.5,
            linewidth=1.2,
            elinewidth=1,
            capsize=2.5,
            color=colour,
            label=f"{name} (median of {count})" if count > 1 else f"{name} (1 network)",
        )
    layer_ticks(axes, layers, _ROOM + 1)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    tidy(axes)
    unit_axis(axes, similarity["value"])
    axes.set_ylabel(METRIC_NAMES.get(metric, named(metric)))
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    return figure


@literal
def metrics_figure(similarity: pd.DataFrame) -> Figure:
    """Similarity per layer in small panels, one for every metric of the table; one line per level.

    Args:
        similarity: rows of the table ``similarity`` of one problem.
    """
    require(similarity, "layer", "kind", "depth", "metric", "value")
    metrics = list(similarity["metric"].unique())
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.8, 2.6 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    shades = Shades(int(similarity["level"].max()))
    for number, (axes, metric) in enumerate(zip(panels, metrics, strict=False)):
        level_lines(axes, similarity[similarity["metric"] == metric], "value", shades, room=4, size=2.5)
        axes.set_title(METRIC_NAMES.get(str(metric), named(metric)), fontsize="medium")
        axes.tick_params(axis="x", labelbottom=number + columns >= len(metrics))
    unit_axis(panels[0], similarity["value"])
    for axes in panels[len(metrics) :]:
        axes.remove()
    level_bar(figure, list(panels[: len(metrics)]), shades)
    return figure
