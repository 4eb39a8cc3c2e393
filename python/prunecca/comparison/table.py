"""The table of a comparison, and what its numbers are worth."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..covariance.covariance import Covariance
from ..errors import FewRows
from ..passes.namesakes import Pair
from ..similarity.operands import ROWS_PER_DIRECTION, few_rows
from ..similarity.registry import Score
from .scores import score, score_alone

_COLUMNS = ["candidate", "layer", "kind", "depth", "metric", "value", "count", "channels", "kept_x", "kept_y"]
_COLUMNS += ["layout", "points", "channels_x", "channels_y", "layer_y", "depth_y"]


def rows_of(
    pairs: Sequence[Pair], shown: Sequence[Covariance], layouts: Mapping[str, str], metrics: Mapping[str, Score]
) -> list[dict[str, Any]]:
    """Rows of the table.

    Args:
        pairs: with covariances that any metric can take; several share their layer of the reference.
        shown: the same covariances in the units of the activations.
        layouts: of the layers of the reference, by name.
        metrics: by name.
    """
    covariances = [pair.covariance for pair in pairs]
    scored = score(covariances, metrics) if len(pairs) > 1 else [score_alone(covariances[0], metrics)]
    rows = []
    for pair, cov, scores in zip(pairs, shown, scored, strict=True):
        layer = {"layer": pair.x.name, "kind": pair.x.kind, "depth": pair.x.depth, "layout": layouts[pair.x.name]}
        x, y = cov.channels
        sizes = {"channels": x, "channels_x": x, "channels_y": y}
        partner = {"layer_y": pair.y.name, "depth_y": pair.y.depth}
        rows += [
            {"candidate": pair.candidate, **layer, **one, "count": cov.count, **sizes, **partner} for one in scores
        ]
    return rows


def table_of(rows: list[dict[str, Any]], candidates: Sequence[str]) -> pd.DataFrame:
    """The table, by candidate and depth, with a warning where it holds values that mean little.

    Args:
        rows: of all pairs.
        candidates: their names in order.
    """
    table = pd.DataFrame(rows, columns=_COLUMNS).astype({"kept_x": "Int64", "kept_y": "Int64"})
    order = {name: position for position, name in enumerate(candidates)}
    kept = table[["kept_x", "kept_y"]]
    # A regression, which fits those of one side, fits the mean as well.
    directions = kept.fillna(0).sum(axis=1) + (kept.isna().sum(axis=1) == 1)
    # With no more rows than directions, any two representations correlate perfectly.
    table["reliable"] = (table["count"] > directions).astype(bool)
    _warn_of_few_rows(table, directions)
    places = table["candidate"].map(order)
    return (
        table.assign(_place=places)
        .sort_values(["_place", "depth", "depth_y"], kind="stable", ignore_index=True)
        .drop(columns="_place")
    )


def _warn_of_few_rows(table: pd.DataFrame, directions: pd.Series) -> None:
    meaningless, few = table[~table["reliable"]], table[table["count"] < ROWS_PER_DIRECTION * directions]
    for rows in (meaningless, few):
        if len(rows):
            layers = list(dict.fromkeys(rows["layer"]))
            shown = ", ".join(map(repr, layers[:3])) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
            first = rows.iloc[0]
            words = few_rows(int(first["count"]), int(directions[rows.index[0]]))
            kept = " + ".join(f"{first[side]}" for side in ("kept_x", "kept_y") if first[side] is not pd.NA)
            warnings.warn(
                f"{', '.join(dict.fromkeys(rows['metric']))} of {shown}: {words}; {first['layer']!r} has {first['count']} "
                f"rows for {kept} directions. Give more datapoints, or use a metric that keeps no directions (linear_cka)",
                FewRows,
                stacklevel=4,
            )
            return
