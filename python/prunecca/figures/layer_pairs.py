"""The table of a comparison by pairs of layers: which metric, which candidate, and the matrix that is drawn."""

from __future__ import annotations

import pandas as pd

from ..similarity.registry import METRIC_NAMES


def is_distance(metric: str) -> bool:
    """Whether 0 stands for equal networks."""
    return METRIC_NAMES.get(metric, metric).endswith("distance")


def with_partners(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the candidates' layers and their order; without such columns, layers are beside their namesakes."""
    if "layer_y" not in table:
        table = table.assign(layer_y=table["layer"])
    return table if "depth_y" in table else table.assign(depth_y=table["depth"])


def chosen_metric(table: pd.DataFrame, metric: str | None, call: str = "heatmap") -> str:
    """The metric that is meant; with one metric in the table it needs no name.

    Raises:
        ValueError: the table has no such metric, or several and none is named.
    """
    known = [str(name) for name in table["metric"].unique()]
    if metric is None and len(known) == 1:
        return known[0]
    if metric is None:
        example = f", as in {call}({known[0]!r})" if known else ""
        raise ValueError(f"the table has the metrics {', '.join(known) or '(none)'}; name one{example}")
    if metric not in known:
        raise ValueError(f"the table has no metric {metric!r}; it has {', '.join(known)}")
    return metric


def chosen_candidates(table: pd.DataFrame, candidate: str | None) -> list[str]:
    """All candidates, or the one that is named.

    Raises:
        ValueError: the table has no such candidate.
    """
    known = [str(name) for name in table["candidate"].unique()]
    if candidate is None:
        return known
    if candidate not in known:
        raise ValueError(f"the table has no candidate {candidate!r}; it has {', '.join(known)}")
    return [candidate]


def only_namesakes(table: pd.DataFrame) -> bool:
    """Whether every layer has one partner, so that all values lie on a line."""
    pairs = with_partners(table)[["candidate", "layer", "layer_y"]].drop_duplicates()
    return not any(pairs.duplicated(["candidate", side]).any() for side in ("layer", "layer_y"))


def matrix(table: pd.DataFrame, metric: str, candidate: str, column: str = "value") -> pd.DataFrame:
    """A column of the table as the reference's layers by those of a candidate, in order of execution.

    Raises:
        ValueError: the table has two rows for one pair of layers.
    """
    rows = with_partners(table)
    rows = rows[(rows["metric"] == metric) & (rows["candidate"] == candidate)]
    twice = rows[rows.duplicated(["layer", "layer_y"])]
    if len(twice):
        one = twice.iloc[0]
        raise ValueError(
            f"the table has two rows of {metric} for {one['layer']!r} and {one['layer_y']!r} of {candidate!r}; "
            "expected one for each pair of layers"
        )
    ends = {"layer": "depth", "layer_y": "depth_y"}
    down, across = (rows.sort_values(depth, kind="stable")[name].unique() for name, depth in ends.items())
    wide = rows.pivot(index="layer", columns="layer_y", values=column).reindex(index=down, columns=across)
    return wide.astype("float64")


def along_the_layers(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that a line per candidate can show: of namesakes where layers have several partners.

    Raises:
        ValueError: layers have several partners, and none of them its name.
    """
    if only_namesakes(table):
        return table
    rows = table[table["layer"] == with_partners(table)["layer_y"]]
    if rows.empty:
        raise ValueError("no layer was compared with its namesake, so that there is no line to draw; use heatmap()")
    return rows
