"""Runs of one problem side by side: what of them can be compared, at which densities they meet, and the numbers there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..data.splits import same_data
from ..errors import ConfigurationError
from ..study.options import Options
from .run import ReportedRun

TOLERANCE = 0.05  # by how much densities may differ, relative to each other, and still count as equal


@dataclass(frozen=True)
class Alignment:
    """The runs of one problem.

    Args:
        problem: its name.
        runs: their labels, in order; only those whose images are the same.
        apart: the labels of those whose images are others.
        levels: the rows of the table ``levels`` with a column ``run``.
        similarity: those of the table ``similarity`` of one metric, of the runs and layers that can be compared.
        meetings: see ``meet``.
        remarks: sentences about what is left out, and why.
    """

    problem: str
    runs: tuple[str, ...]
    apart: tuple[str, ...]
    levels: pd.DataFrame
    similarity: pd.DataFrame
    meetings: pd.DataFrame
    remarks: tuple[str, ...]


def align(runs: Mapping[str, ReportedRun], metric: str) -> list[Alignment]:
    """The problems that at least two runs share, with what can be compared of them.

    Args:
        runs: by their labels.
        metric: the similarity that is compared.

    Raises:
        ConfigurationError: they share none.
    """
    problems = list(dict.fromkeys(name for run in runs.values() for name in run.problems))
    found = [_aligned(problem, runs, metric) for problem in problems]
    shared = [one for one in found if len(one.runs) > 1]
    if shared:
        return shared
    other = next((one for one in found if one.apart), None)
    if other is not None:
        raise ConfigurationError(
            f"the images of {other.problem} in {_list(other.apart)} are not those of {_list(other.runs)}; expected runs of "
            "the same images, made with the same --data and --train-images"
        )
    owned = "; ".join(
        f"{name} has {', '.join(run.problems) if run.has_begun else 'nothing finished'}" for name, run in runs.items()
    )
    raise ConfigurationError(f"no two runs share a problem: {owned}; give runs of the same problem")


def meet(levels: pd.DataFrame, tolerance: float = TOLERANCE) -> pd.DataFrame:
    """The densities at which runs can be compared, greatest first.

    A meeting is the density of a level of one run, to which at least two runs have a level within the tolerance; each takes
    its nearest. No level is in two meetings; those of more runs, then the nearer, go first.

    Args:
        levels: rows of the table ``levels`` of one problem, with a column ``run``.
        tolerance: the greatest relative difference.

    Returns:
        A row per meeting and run: meeting (its number), shared (its density), run, level, density.
    """
    pruned = levels[~levels["control"] & (levels["level"] > 0) & (levels["density"] > 0)]
    medians = pruned.groupby(["run", "level"], sort=False)["density"].median()
    own = {
        str(run): part.droplevel("run").sort_values(kind="stable") for run, part in medians.groupby("run", sort=False)
    }
    places = np.log(np.array([density for part in own.values() for density in part], dtype=np.float64))
    nearest = {run: _nearest(np.log(part.to_numpy()), places) for run, part in own.items()}
    limit = math.log1p(tolerance) + 1e-12
    apart = np.array([np.abs(np.log(own[run].to_numpy())[at] - places) for run, at in nearest.items()])
    apart = apart.reshape(len(own), len(places))
    inside = apart <= limit
    within = np.where(inside, apart, 0)
    used: set[tuple[str, int]] = set()
    meetings: list[tuple[float, list[tuple[str, int]]]] = []
    for place in np.lexsort((-places, within.sum(axis=0), within.max(axis=0, initial=0), -inside.sum(axis=0))):
        members = [(run, int(nearest[run][place])) for run, is_in in zip(own, inside[:, place], strict=True) if is_in]
        members = [member for member in members if member not in used]
        if len(members) > 1:
            used |= set(members)
            meetings.append((math.exp(places[place]), members))
    meetings.sort(key=lambda meeting: -meeting[0])
    rows = [
        (number, shared, run, int(own[run].index[at]), float(own[run].iloc[at]))
        for number, (shared, members) in enumerate(meetings)
        for run, at in members
    ]
    return pd.DataFrame(rows, columns=["meeting", "shared", "run", "level", "density"])


def summarise(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Median, least and greatest of a column over the networks of a group, and how many of them it has.

    The unpruned network is one, though it is repeated for every replicate; the controls of a run are one group, whose
    level is missing.

    Args:
        table: levels or similarity, with a column ``run``.
        by: the columns of a group besides run, control and level.
        value: the column that is summarised.
    """
    if table.empty:
        return pd.DataFrame(columns=["run", "control", "level", *by, "networks", "median", "least", "greatest"])
    table = table.assign(network=table["replicate"].where(table["level"] > 0, 0))
    table["network"] = table["network"].where(~table["control"], table["level"])
    table["level"] = table["level"].astype("Int64").mask(table["control"])
    table = table.drop_duplicates(["run", "control", "level", *by, "network"])
    groups = table.groupby(["run", "control", "level", *by], sort=False, dropna=False)[value]
    return groups.agg(networks="size", median="median", least="min", greatest="max").reset_index()


def _nearest(sorted_values: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The position of the value nearest to each that is wanted; of equal distances the lesser."""
    after = np.searchsorted(sorted_values, wanted).clip(1, max(1, len(sorted_values) - 1))
    if len(sorted_values) == 1:
        return np.zeros(len(wanted), dtype=np.int64)
    closer = np.abs(sorted_values[after - 1] - wanted) <= np.abs(sorted_values[after] - wanted)
    return np.where(closer, after - 1, after)


def _aligned(problem: str, runs: Mapping[str, ReportedRun], metric: str) -> Alignment:
    asked = {name: run for name, run in runs.items() if problem in run.problems}
    begun = {name: run for name, run in asked.items() if not run.rows("levels", problem).empty}
    remarks = [f"{name} has nothing finished of {problem} yet." for name in asked if name not in begun]
    chosen, others = _largest_group(list(begun), lambda one, other: _same_problem(begun[one], begun[other], problem))
    if others:
        remarks.insert(
            0, f"The images of {problem} in {_list(others)} are not those of {_list(chosen)}: {_left(others)}."
        )
    levels = _stacked({name: begun[name].rows("levels", problem) for name in chosen})
    measured = {name: begun[name].rows("similarity", problem, metric=metric) for name in chosen}
    measured = {name: rows for name, rows in measured.items() if not rows.empty}
    pruned = {name for name in chosen if (begun[name].rows("levels", problem)["level"] > 0).any()}
    without = [name for name in chosen if name in pruned and name not in measured]
    if without and measured:
        remarks.append(f"{_list(without)} has no {metric}: its similarity is left out.")
    same, apart = _largest_group(
        list(measured), lambda one, other: _images(begun[one], metric) == _images(begun[other], metric)
    )
    if apart:
        remarks.append(
            f"Similarity was measured on other images or in another way in {_list(apart)} ({_measured(begun[apart[0]], metric)}) "
            f"than in {_list(same)} ({_measured(begun[same[0]], metric)}): {_left(apart, 'their similarity')}."
        )
    layers = {name: set(measured[name]["layer"]) for name in same}
    common: set[str] = set.intersection(*layers.values()) if layers else set()
    missing = sorted(set().union(*layers.values()) - common)
    if missing:
        remarks.append(f"Only the layers that all have are shown; {', '.join(map(str, missing[:6]))} are not.")
    rows = _stacked({name: measured[name][measured[name]["layer"].isin(common)] for name in same})
    meetings = meet(levels) if chosen else pd.DataFrame()
    alone = [] if meetings.empty else [name for name in chosen if name in pruned and name not in set(meetings["run"])]
    if alone:
        verb = "have" if len(alone) > 1 else "has"
        remarks.append(f"{_list(alone)} {verb} no level of about the density of another run: see the last levels.")
    return Alignment(problem, tuple(chosen), tuple(others), levels, rows, meetings, tuple(remarks))


def _stacked(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows of several runs, with their labels in the column ``run``."""
    filled = [rows.assign(run=name) for name, rows in parts.items() if not rows.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def _largest_group(names: list[str], alike: Any) -> tuple[list[str], list[str]]:
    """The most of them that are alike, the first of equally many; and the others."""
    groups: list[list[str]] = []
    for name in names:
        group = next((group for group in groups if alike(group[0], name)), None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    largest = max(groups, key=len, default=[])
    return largest, [name for name in names if name not in largest]


def _same_problem(one: ReportedRun, other: ReportedRun, problem: str) -> bool:
    first, second = (run.configuration["problems"][problem]["settings"] for run in (one, other))
    given = [(first.get(key), second.get(key)) for key in ("dataset", "classes", "image_size")]
    if any(None not in pair and pair[0] != pair[1] for pair in given):
        return False
    data = (first.get("data"), second.get("data"))
    return None in data or same_data(*data)


def _images(run: ReportedRun, metric: str) -> tuple[Any, ...]:
    """What decides on which images, and how, layers were compared."""
    options = Options.from_json(run.configuration["options"])
    return options.images, options.seed, options.metric_options().get(metric)


def _measured(run: ReportedRun, metric: str) -> str:
    """The same in words."""
    options = Options.from_json(run.configuration["options"])
    given = options.metric_options().get(metric, {})
    extra = "".join(f", {name} {value:g}" for name, value in given.items() if value is not None)
    return f"{options.images} images of seed {options.seed}{extra}"


def _left(names: Sequence[str], what: str = "") -> str:
    if what:
        return f"{what if len(names) > 1 else what.replace('their', 'its')} is left out"
    return "they are left out" if len(names) > 1 else "it is left out"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "the others"
