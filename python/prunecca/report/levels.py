"""One summary per level: medians over replicates, and the similarity of the first, the least similar and the last layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class LevelSummary:
    """The networks of one level of a problem, or one control; whatever is not known is NaN.

    Args:
        control: retrained without pruning.
        level: 0 is the unpruned network; the number of a control.
        networks: how many there are; the unpruned network and every control is one.
        density, parameters_left: medians, a fraction and a number.
        accuracy, least_accuracy, greatest_accuracy: median and range of the test accuracy in [0, 1].
        first, least, last: similarity (median) of the first layer, of the least similar one and of the last.
    """

    control: bool
    level: int
    networks: int
    density: float
    parameters_left: float
    accuracy: float
    least_accuracy: float
    greatest_accuracy: float
    first: float
    least: float
    last: float

    @property
    def name(self) -> str:
        """Such as ``level 3``."""
        return f"control {self.level}" if self.control else f"level {self.level}" if self.level else "unpruned"


def summarise(tables: Mapping[str, pd.DataFrame], problem: str, metric: str) -> list[LevelSummary]:
    """A summary of every level of a problem, then of every control, as far as they are finished.

    Args:
        tables: with the tables ``levels`` and ``similarity`` of a study; either may be empty.
        problem: its name.
        metric: the similarity that is summarised.
    """
    levels, similarity = tables["levels"], tables["similarity"]
    if levels.empty:
        return []
    if not similarity.empty:
        similarity = similarity[(similarity["problem"] == problem) & (similarity["metric"] == metric)]
    summaries = []
    for _, rows in levels[levels["problem"] == problem].groupby(["control", "level"]):
        control, level = bool(rows["control"].iloc[0]), int(rows["level"].iloc[0])
        first, least, last = _ends(similarity, control, level)
        accuracy = rows["test_accuracy"]
        summaries.append(
            LevelSummary(
                control=control,
                level=level,
                networks=1 if control or level == 0 else len(rows),
                density=float(rows["density"].median()),
                parameters_left=float(rows["parameters_left"].median()),
                accuracy=float(accuracy.median()),
                least_accuracy=float(accuracy.min()),
                greatest_accuracy=float(accuracy.max()),
                first=first,
                least=least,
                last=last,
            )
        )
    return summaries


def _ends(similarity: pd.DataFrame, control: bool, level: int) -> tuple[float, float, float]:
    """Median similarity of the first layer, of the least similar and of the last."""
    if similarity.empty:
        return math.nan, math.nan, math.nan
    rows = similarity[(similarity["control"] == control) & (similarity["level"] == level)]
    medians = rows.groupby("depth")["value"].median()
    if medians.empty:
        return math.nan, math.nan, math.nan
    return float(medians.iloc[0]), float(medians.min()), float(medians.iloc[-1])
