"""The result of ``compare``: a table, a picture, and on request the covariances behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..activations.layers import Layer
from ..covariance.covariance import Covariance
from ..storage.atomic import write_atomic
from ..storage.tables import write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NAMED = 8  # candidates that get a line of the legend each


@dataclass(frozen=True)
class Comparison:
    """Similarity of every layer of every candidate with the reference's.

    table: one row per candidate, layer and metric, with the columns candidate, layer, kind ("conv", "pool", "fc"),
        depth (order of execution, from 0), metric, value, count (rows: datapoints times positions), channels (of the
        reference), kept_x and kept_y (directions that took part; missing for metrics that keep none).
    layers: the layers in order of execution.
    covariances: by (candidate, layer name), if they were to be kept; otherwise empty.
    """

    table: pd.DataFrame
    layers: tuple[Layer, ...]
    covariances: Mapping[tuple[str, str], Covariance] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the table to a ``.csv`` or ``.parquet`` file, whole or not at all."""
        write_table(path, self.table)

    def plot(self, path: str | Path, metric: str | None = None) -> None:
        """Draw similarity per layer, one line per candidate, to a file in a format that matplotlib knows by its ending.

        metric: one of the table's; None draws each in a panel of its own. Raises ``ValueError`` for any other, and for
        an ending that stands for no format.
        """
        from matplotlib.figure import Figure

        there = list(self.table["metric"].unique())
        if metric is not None and metric not in there:
            raise ValueError(f"the table has no metric {metric!r}; it has {', '.join(there)}")
        metrics = there if metric is None else [metric]
        width = min(16.0, 3.5 + 0.45 * len(self.layers))
        figure = Figure(figsize=(width, 0.8 + 3.2 * len(metrics)), layout="constrained")
        form = Path(path).suffix[1:].lower()
        if form not in figure.canvas.get_supported_filetypes():
            raise ValueError(f"{path} ends in {Path(path).suffix!r}; expected a picture such as .png, .pdf or .svg")
        panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels, metrics, strict=True):
            self._draw(axes, name)
        names = [layer.name for layer in self.layers]
        panels[-1].set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 6 else 0)
        panels[-1].set_xlabel("layer")
        candidates = list(self.table["candidate"].unique())
        if 1 < len(candidates) <= _MOST_NAMED:
            panels[0].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        elif len(candidates) == 1:
            panels[0].set_title(f"{candidates[0]} and the reference", fontsize="medium")
        else:
            panels[0].set_title(
                f"{len(candidates)} candidates, {candidates[0]} to {candidates[-1]} (darker)", fontsize="medium"
            )
        write_atomic(path, lambda stream: figure.savefig(stream, format=form, dpi=150))

    def _draw(self, axes: Axes, metric: str) -> None:
        from matplotlib import colormaps

        from ..similarity.registry import METRIC_NAMES

        rows = self.table[self.table["metric"] == metric]
        candidates = list(rows["candidate"].unique())
        few = len(candidates) <= _MOST_NAMED
        for place, candidate in enumerate(candidates):
            line = rows[rows["candidate"] == candidate].sort_values("depth")
            shade: Any = f"C{place}" if few else colormaps["viridis_r"](0.1 + 0.9 * place / (len(candidates) - 1))
            axes.plot(line["depth"], line["value"], marker="o", markersize=4, color=shade, label=str(candidate))
        axes.set_ylabel(METRIC_NAMES.get(metric, metric))
        axes.set_ylim(min(0.0, rows["value"].min() if rows["value"].notna().any() else 0.0), 1.04)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
