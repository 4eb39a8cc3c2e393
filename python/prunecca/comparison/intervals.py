"""Bootstrap intervals of the values of a comparison, over groups of batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from ..covariance.covariance import Covariance
from ..passes.team import Team
from ..progress import Progress, reporting
from ..seeds import derive
from ..similarity.registry import Score
from .scores import bytes_of, room, score

_RESAMPLES = 200
_FEWEST = 8  # groups, of which resamples differ enough

Interval = tuple[float, float]


def bootstrap(
    teams: Iterable[Team], metrics: Mapping[str, Score], level: float, progress: Progress = False
) -> list[list[Interval]]:
    """Percentile intervals (Efron 1979) from groups of batches that are drawn with replacement.

    Rows of a batch stay together, so that neighbouring positions and datapoints that came together count as what they
    are. The states of groups add up, so that the data are read once.

    Args:
        teams: with groups of batches.
        metrics: by name.
        level: the part of the resamples between the bounds, in (0, 1).
        progress: as in ``compare``.

    Returns:
        For each pair of each team, in order, the bounds of each metric; NaN for one of rows.

    Raises:
        ValueError: too few groups.
    """
    exact = {name: metric for name, metric in metrics.items() if metric.metric.takes == "covariance"}
    found: list[list[Interval]] = []
    teams = list(teams)
    with reporting(progress, _RESAMPLES * len(teams), "resamples") as report:
        for number, team in enumerate(teams):
            groups = team.groups()
            if len(groups) < _FEWEST:
                raise ValueError(
                    f"intervals need at least {_FEWEST} batches that are drawn from, but there were {len(groups)}; give the "
                    "data in smaller batches"
                )
            random = np.random.default_rng(derive(0, "bootstrap"))
            values: list[list[float]] = []
            waiting: list[Covariance] = []
            for resample in range(_RESAMPLES):
                drawn = np.bincount(random.integers(len(groups), size=len(groups)), minlength=len(groups))
                waiting += team.resampled(groups, drawn.tolist())
                full = sum(map(bytes_of, waiting)) >= room(waiting[0].xy.device) if waiting else False
                if full or resample == _RESAMPLES - 1:
                    values += [[row["value"] for row in rows] for rows in score(waiting, exact)]
                    waiting = []
                report(number * _RESAMPLES + resample + 1)
            tail = 100 * (1 - level) / 2
            bounds = partial(np.nanpercentile, q=[tail, 100 - tail])
            pairs = len(values) // _RESAMPLES
            for pair in np.moveaxis(np.reshape(values, (_RESAMPLES, pairs, len(exact))), 0, -1):
                own = {name: bounds(each) for name, each in zip(exact, pair, strict=True)}
                ends = [own.get(name, (np.nan, np.nan)) for name in metrics]
                found.append([(float(low), float(high)) for low, high in ends])
    return found
