"""The table of a comparison, and what its numbers are worth."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ..errors import FewRows
from ..passes.namesakes import Pair
from ..similarity.operands import ROWS_PER_DIRECTION, few_rows
from ..similarity.registry import Score
from . import scores
from .scores import score

_COLUMNS = ["candidate", "layer", "kind", "depth", "metric", "value", "count", "channels", "kept_x", "kept_y"]
_COLUMNS += ["layout", "points", "channels_x", "channels_y", "layer_y", "depth_y", "sampled"]


def portions(lists: Iterable[Sequence[Pair]]) -> Iterator[list[Pair]]:
    """The pairs of several lists, in order, as many at a time as ``score`` best takes together."""
    return scores.portions(lists, lambda pair: filter(None, (pair.finding.covariance, pair.finding.chance)))


def rows_of(pairs: Sequence[Pair], layouts: Mapping[str, str], metrics: Mapping[str, Score]) -> list[dict[str, Any]]:
    """Rows of the table.

    Args:
        pairs: of any layers; what they share is decomposed once.
        layouts: of the layers of the reference, by name.
        metrics: by name.
    """
    findings = [pair.finding for pair in pairs]
    samples = [finding.sample for finding in findings if finding.sample is not None]
    scored = score([finding.covariance for finding in findings if finding.covariance is not None], metrics, samples)
    estimates = [finding.estimate for finding in findings if finding.estimate is not None]
    scored += [[{"metric": name, "value": one.value, "batch": one.batch} for name in metrics] for one in estimates]
    shuffled = [finding.chance for finding in findings if finding.chance is not None]
    if shuffled:
        others = [(x, y.roll(1, 0)) for x, y in samples]  # in random order, so that any other row will do
        for own, chances in zip(scored, score(shuffled, metrics, others), strict=True):
            for one, chance in zip(own, chances, strict=True):
                one["chance"] = chance["value"]
    rows = []
    for pair, own in zip(pairs, scored, strict=True):
        told = pair.finding.covariance or pair.finding.estimate
        if told is None:
            continue
        layer = {"layer": pair.x.name, "kind": pair.x.kind, "depth": pair.x.depth, "layout": layouts[pair.x.name]}
        x, y = told.channels
        sizes = {"channels": x, "channels_x": x, "channels_y": y}
        partner = {"layer_y": pair.y.name, "depth_y": pair.y.depth}
        rows += [{"candidate": pair.candidate, **layer, **one, "count": told.count, **sizes, **partner} for one in own]
    return rows


def table_of(rows: list[dict[str, Any]], candidates: Sequence[str]) -> pd.DataFrame:
    """The table, by candidate and depth, with a warning where it holds values that mean little.

    Args:
        rows: of all pairs.
        candidates: their names in order.
    """
    more = [name for name in ("chance", "low", "high", "batch") if any(name in row for row in rows)]
    whole = dict.fromkeys(("kept_x", "kept_y", "sampled"), "Int64")
    table = pd.DataFrame(rows, columns=[*_COLUMNS, *more]).astype(whole)
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
