"""A picture of one problem: similarity per layer beside what shuffled rows give, and what is left above that."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ..similarity.registry import METRIC_NAMES
from .style import LINES, Shades, layer_names, level_bar, level_lines, literal, named, require, unit_axis

_ROOM = 6  # names of layers that fit beside each other


@literal
def chance_figure(table: pd.DataFrame, metric: str = "svcca") -> Figure:
    """Similarity with the value of shuffled rows, and under it the adjusted similarity; one line per level.

    The bars of chance reach from the least to the greatest network.

    Args:
        table: rows of one problem and one metric: replicate, level, control, layer, kind, depth, value, chance, adjusted.
        metric: the name of the metric.
    """
    require(table, "layer", "kind", "depth", "value", "chance", "adjusted")
    figure = Figure(figsize=(6.0, 6.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    shades = Shades(int(table.loc[~table["control"], "level"].max()) if (~table["control"]).any() else 1)
    level_lines(above, table, "value", shades, room=_ROOM)
    layers = layer_names(table)
    chance = table.groupby("layer")["chance"]
    low, middle, high = (end.reindex(layers).to_numpy() for end in (chance.min(), chance.median(), chance.max()))
    above.errorbar(
        range(len(layers)),
        middle,
        [middle - low, high - middle],
        color=LINES[1],
        linestyle=":",
        marker="x",
        linewidth=1.4,
        elinewidth=1,
        capsize=2.5,
        label="chance: rows shuffled",
    )
    unit_axis(above, pd.concat([table["value"], table["chance"]]))
    above.set_ylabel(METRIC_NAMES.get(metric, named(metric)))
    above.tick_params(axis="x", length=0)
    level_lines(below, table, "adjusted", shades, room=_ROOM)
    unit_axis(below, table["adjusted"])
    below.set_ylabel("adjusted: (s − chance) / (1 − chance)")
    # Between the panels, where no line can pass behind it.
    handles, labels = above.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize="small")
    level_bar(figure, [above, below], shades)
    return figure
