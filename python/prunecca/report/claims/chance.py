"""What of a similarity is chance: the value that shuffled rows give, and the similarity that is left above it.

A mean of correlations grows with the directions that were kept and falls with the rows there were, and the layers of a
network differ in both. The column ``chance`` of the table ``similarity`` has, for each layer and metric, what the same
activations give when the rows of one network are shuffled. The adjusted similarity (s - chance) / (1 - chance) is 0 where
rows tell nothing, and 1 for equal representations. A distance d stands for the similarity 1 - d.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...figures.layer_pairs import is_distance

CHANCE = "chance"
_LAYER = ["problem", "metric", "control", "level", "layer", "kind", "depth"]


def has_chance(similarity: pd.DataFrame) -> bool:
    """Whether the table says of any pruned network or control what shuffled rows give."""
    return not known_chance(similarity).empty


def adjusted(similarity: pd.DataFrame) -> pd.Series:
    """The adjusted similarity of every row; NaN where chance is not known, or leaves nothing to reach.

    Args:
        similarity: the table of that name, with the column ``chance``.

    Example:
        >>> import pandas as pd
        >>> from prunecca.report.claims.chance import adjusted
        >>> adjusted(pd.DataFrame({"metric": "svcca", "value": [0.2, 0.6, 1.0], "chance": 0.2})).round(6).tolist()
        [0.0, 0.5, 1.0]
    """
    value, chance = (similarity[name].astype(np.float64) for name in ("value", CHANCE))
    distance = (
        similarity["metric"].map({name: is_distance(name) for name in similarity["metric"].unique()}).astype(bool)
    )
    own = np.where(distance, 1 - value, value)
    shuffled = np.where(distance, 1 - chance, chance)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(shuffled < 1, (own - shuffled) / (1 - shuffled), np.nan)
    return pd.Series(left, similarity.index, name="adjusted")


def as_adjusted(similarity: pd.DataFrame) -> pd.DataFrame:
    """The table with adjusted values in place of its own, for those who judge it; a distance stays one."""
    value = adjusted(similarity)
    distance = (
        similarity["metric"].map({name: is_distance(name) for name in similarity["metric"].unique()}).astype(bool)
    )
    return similarity.assign(value=value.where(~distance, 1 - value))


def chance_table(similarity: pd.DataFrame) -> pd.DataFrame:
    """Per problem, metric, level (or control) and layer: similarity, chance and adjusted similarity, medians over networks.

    Args:
        similarity: the table of that name; rows without a chance, and the unpruned network with itself, are left out.

    Returns:
        The columns ``problem``, ``metric``, ``control``, ``level``, ``layer``, ``kind``, ``depth``, ``networks``, ``value``,
        ``chance`` and ``adjusted``. All controls are one level, 0.
    """
    rows = known_chance(similarity)
    if rows.empty:
        return pd.DataFrame(columns=[*_LAYER, "networks", "value", CHANCE, "adjusted"])
    rows = rows.assign(adjusted=adjusted(rows), level=rows["level"].where(~rows["control"].astype(bool), 0))
    groups = rows.groupby(_LAYER, sort=False)
    table = groups[["value", CHANCE, "adjusted"]].median()
    table.insert(0, "networks", groups.size())
    table = table.reset_index()
    order = {name: place for place, name in enumerate(rows["problem"].unique())}
    metrics = {name: place for place, name in enumerate(rows["metric"].unique())}
    key = {"problem": order, "metric": metrics}
    by = ["problem", "metric", "control", "level", "depth"]
    return table.sort_values(by, key=lambda c: c.map(key[c.name]) if c.name in key else c, kind="stable").reset_index(
        drop=True
    )


def known_chance(similarity: pd.DataFrame) -> pd.DataFrame:
    """The rows of pruned networks and controls whose chance is known."""
    if similarity.empty or CHANCE not in similarity.columns:
        return similarity.iloc[:0]
    return similarity[(similarity["level"] > 0) & np.isfinite(similarity[CHANCE].astype(np.float64))]
