"""The result of ``compare``: a table, a picture, and on request the covariances behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..activations.layers import Layer
from ..covariance.covariance import Covariance
from ..storage.tables import write_table


@dataclass(frozen=True)
class Comparison:
    """Similarity of every layer of every candidate with the reference's.

    Attributes:
        table: one row per candidate, layer and metric, with the columns candidate, layer, kind ("conv", "pool", "fc"),
            depth (order of execution, from 0), metric, value, count (rows: datapoints times positions), channels (of
            the reference), kept_x and kept_y (directions that took part; missing for metrics that keep none), layout (which
            dimension of the reference's output holds the channels), points (what a row is), channels_x, channels_y, and reliable (False where there
            are no more rows than directions, so that the value means nothing).
        layers: the layers in order of execution.
        covariances: by (candidate, layer name), if they were to be kept; otherwise empty.

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
        ...     result.plot(f"{folder}/similarity.png")
    """

    table: pd.DataFrame
    layers: tuple[Layer, ...]
    covariances: Mapping[tuple[str, str], Covariance] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the table to a file, whole or not at all.

        Args:
            path: ends in ``.csv`` or ``.parquet``.

        Raises:
            ValueError: another ending.
        """
        write_table(path, self.table)

    def plot(self, path: str | Path, metric: str | None = None) -> None:
        """Draw similarity per layer, one line per candidate, to a file.

        Args:
            path: its ending is a format that matplotlib knows.
            metric: one of the table's; None draws each in a panel of its own.

        Raises:
            ValueError: another metric, or an ending that stands for no format.
        """
        from ..figures.comparison import save_comparison  # matplotlib takes a while to import

        save_comparison(self.table, [layer.name for layer in self.layers], path, metric)
