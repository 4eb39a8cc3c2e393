"""The result of ``compare``: a table, a picture, and on request the covariances behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..activations.layers import Layer
from ..covariance.covariance import Covariance
from ..figures.layer_pairs import chosen_candidates, chosen_metric, matrix
from ..storage.tables import write_table
from .page import page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Comparison:
    """Similarity of every layer of every candidate with the reference's.

    Attributes:
        table: one row per candidate, layer and metric, with the columns candidate, layer, kind ("conv", "pool", "fc"),
            depth (order of execution, from 0), metric, value, count (rows: datapoints times positions), channels (of
            the reference), kept_x and kept_y (directions that took part; missing for metrics that keep none), layout (which
            dimension of the reference's output holds the channels), points (what a row is: "position", "mean", "cls",
            "last", "flatten" or the name of a function), channels_x, channels_y, layer_y and depth_y (the candidate's layer),
            sampled (rows that a metric of rows was computed from; missing where the value is of all), and reliable (False
            where there are no more rows than directions, so that the value means nothing). Where asked for, also chance
            (what the metric gives for rows of other datapoints) and batch (the most datapoints of the batches that an
            estimate is made of).
        layers: the layers in order of execution.
        covariances: by (candidate, layer), of other pairs than namesakes by (candidate, layer, layer_y), if they were to be
            kept; otherwise empty.

    Example:
        >>> import tempfile, torch
        >>> from prunecca import compare
        >>> def network():
        ...     return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
        >>> result = compare(network(), {"other": network()}, torch.randn(400, 8), metrics=["svcca", "nbs"])
        >>> [layer.name for layer in result.layers], result.table["metric"].tolist()
        (['1'], ['svcca', 'nbs'])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result.save(f"{folder}/similarity.csv")
        ...     _ = result.plot(f"{folder}/similarity.png")
    """

    table: pd.DataFrame
    layers: tuple[Layer, ...]
    covariances: Mapping[tuple[str, ...], Covariance] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the table to a file, whole or not at all.

        Args:
            path: ends in ``.csv`` or ``.parquet``.

        Raises:
            ValueError: another ending.
        """
        write_table(path, self.table)

    def plot(
        self, path: str | Path | None = None, metric: str | None = None, *, ax: Axes | None = None
    ) -> Axes | Figure:
        """Draw similarity per layer, one line per candidate.

        Args:
            path: where the picture is written; its ending is a format that matplotlib knows. None draws it alone, for a
                notebook, or for ``plt.show()``.
            metric: one of the table's; None draws each in a panel of its own.
            ax: the matplotlib Axes that one metric is drawn on; None makes a figure.

        Returns:
            The Axes of the one panel, or the Figure of several.

        Raises:
            ValueError: another metric, or an ending that stands for no format.

        Example:
            >>> import matplotlib, torch
            >>> from prunecca import compare
            >>> matplotlib.use("agg")
            >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
            >>> compare(model, {"same": model}, torch.randn(400, 8)).plot().get_title()
            'same and the reference'
        """
        from ..figures.comparison import draw_comparison  # matplotlib takes a while to import

        return draw_comparison(self.table, metric, path=path, axes=ax)

    def heatmap(
        self,
        metric: str | None = None,
        path: str | Path | None = None,
        *,
        candidate: str | None = None,
        ax: Axes | None = None,
    ) -> Axes | Figure:
        """Draw every layer of the reference against every layer of the candidates, of ``compare(..., pairs="all")``.

        The reference's layers go down, a candidate's across. Colours reach from 0 to 1, or from 0 to the greatest
        distance; cells of unreliable values are hatched, pairs that were not compared are grey.

        Args:
            metric: one of the table's; None where it has one.
            path: where the picture is written; None draws it alone, as ``plot`` does.
            candidate: one of the table's; None draws each in a panel of its own.
            ax: the matplotlib Axes that one candidate is drawn on; None makes a figure.

        Returns:
            The Axes of the one panel, or the Figure of several.

        Raises:
            ValueError: another metric or candidate, a table with one partner for each layer, or an ending that stands
                for no format.

        Example:
            >>> import matplotlib, torch
            >>> from prunecca import compare
            >>> matplotlib.use("agg")
            >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
            >>> compare(model, {"same": model}, torch.randn(400, 8)).heatmap("svcca").get_ylabel()
            'layer of the reference'
        """
        from ..figures.heatmap import heatmap

        return heatmap(self.table, metric, candidate, path=path, axes=ax)

    def pivot(self, metric: str | None = None, candidate: str | None = None) -> pd.DataFrame:
        """The values of one metric as a matrix: the reference's layers by a candidate's, in order of execution.

        Args:
            metric: one of the table's; None where it has one.
            candidate: one of the table's; None where it has one.

        Returns:
            Numbers of float64, NaN for pairs that were not compared.

        Raises:
            ValueError: another metric or candidate, or several where none is named.

        Example:
            >>> import torch
            >>> from prunecca import compare
            >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
            >>> compare(model, {"same": model}, torch.randn(400, 8)).pivot().round(4).values.tolist()
            [[1.0]]
        """
        names = chosen_candidates(self.table, candidate)
        if len(names) != 1:
            raise ValueError(f"the table has the candidates {', '.join(names) or '(none)'}; name one")
        return matrix(self.table, chosen_metric(self.table, metric, "pivot"), names[0])

    def _repr_html_(self) -> str:
        """What a notebook shows: a picture, and the values of the first layers."""
        return page(self.table)
