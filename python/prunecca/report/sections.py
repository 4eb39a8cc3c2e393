"""What the page of runs side by side says of them: pictures, rows of its tables, and claims in a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ..figures import recipes
from .alignment import Alignment, summarise
from .claims import STATEMENTS, Claim
from .page import DrawnPicture
from .pictures import Picture
from .run import ReportedRun

_NAMED = 6  # networks that are still to come, named one by one
_EACH = "Points are medians over replicates"


@dataclass(frozen=True)
class AboutRun:
    """A run as the page introduces it; ``dash`` is that of its line in the figures, as SVG has it."""

    label: str
    folder: str
    colour: str
    dash: str
    finished: int
    asked: int
    levels: str
    replicates: str
    controls: str
    commands: list[str]


@dataclass(frozen=True)
class Cell:
    """Accuracy of the networks of one run at one density; ``where`` is its level and own density in words."""

    median: float
    least: float
    greatest: float
    networks: int
    where: str = ""


@dataclass(frozen=True)
class Row:
    """A row of the table of accuracies: a cell for each run, None where it has none."""

    name: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class Control:
    """The controls of a run beside its pruned networks; ``pruned`` is at ``density``, and NaN where there is none."""

    run: str
    networks: int
    accuracy: float
    similarity: float
    pruned: float
    density: float


@dataclass(frozen=True)
class Section:
    """What the page says of one problem."""

    name: str
    runs: list[str]
    remarks: tuple[str, ...]
    unpruned: str
    meetings: bool
    rows: list[Row]
    controls: list[Control]
    drawn: list[DrawnPicture]


@dataclass(frozen=True)
class ClaimRow:
    """A claim on one problem: how it was judged in each run, None where it was not."""

    problem: str
    statement: str
    statistic: str
    expected: str
    claims: list[Claim | None]


def about(number: int, label: str, run: ReportedRun) -> AboutRun:
    """A run by its place in the order."""
    own = recipes.look(number)
    sizes = [run.size(problem) for problem in run.problems]
    return AboutRun(
        label=label,
        folder=run.name,
        colour=own.colour,
        dash="" if own.dash == "-" else ",".join(f"{3 * length:g}" for length in own.dash[1]),
        finished=len(run.pieces) - sum(len(run.unfinished(problem)) for problem in run.problems),
        asked=len(run.pieces),
        levels=_span([size.levels for size in sizes]),
        replicates=_span([size.replicates for size in sizes]),
        controls=_span([size.controls for size in sizes]),
        commands=run.commands(),
    )


def still_to_come(label: str, run: ReportedRun) -> str:
    """Which networks of a run are not finished, in a sentence; empty where all are."""
    missing = [str(piece) for problem in run.problems for piece in run.unfinished(problem)]
    if not missing:
        return ""
    rest = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    done = (
        f"{len(run.pieces) - len(missing)} of {len(run.pieces)} networks finished"
        if run.has_begun
        else "nothing is finished"
    )
    return f"{label}: {done}. Still to come: {', '.join(missing[:_NAMED])}{rest}."


def pictures(aligned: Alignment, metric: str) -> list[Picture]:
    """The pictures of one problem for which there is data."""
    problem, runs, levels, similarity = aligned.problem, aligned.runs, aligned.levels, aligned.similarity
    few = len(runs) <= recipes.FEW
    bands = "Bands reach from the least to the greatest replicate." if few else "The next figure has the replicates."
    words = _accuracy_in_words(aligned)
    found = [
        Picture(
            f"accuracy-{problem}",
            "Accuracy against density",
            f"Test accuracy of {problem} against the parameters left, on a logarithmic axis; {_EACH[0].lower()}{_EACH[1:]}. {bands} "
            "The dashed line is the unpruned network, where all runs share it.",
            f"Lines of test accuracy against parameters left. {words}",
            lambda: recipes.accuracy_by_recipe(levels, runs),
            problem,
        )
    ]
    if not few:
        found.append(
            Picture(
                f"accuracy-one-by-one-{problem}",
                "Accuracy against density, run by run",
                "Each run with a band from its least to its greatest replicate, the others in grey. Dashed is its control, the same "
                "retraining without pruning.",
                f"A panel per run of the figure before. {words}",
                lambda: recipes.accuracy_one_by_one(levels, runs),
                problem,
                wide=True,
            )
        )
    if similarity.empty:
        return found
    last = reached(aligned)
    meetings = aligned.meetings[aligned.meetings["run"].isin(similarity["run"])]
    meetings = meetings[meetings.groupby("meeting")["run"].transform("size") > 1]
    bars = " bars reach from the least to the greatest." if few else " the ranges are in similarity.csv."
    if len(meetings):
        found.append(
            Picture(
                f"similarity-{metric}-{problem}",
                "Similarity of each layer at equal density",
                f"Each layer with its unpruned counterpart. {_EACH};{bars}{_chosen(meetings)}",
                f"Similarity per layer. {_similarity_in_words(similarity, meetings, aligned.runs)}",
                lambda: recipes.similarity_by_recipe(similarity, meetings, runs, metric),
                problem,
                wide=meetings["meeting"].nunique() > 1,
            )
        )
    if similarity["control"].any():
        found.append(
            Picture(
                f"control-{metric}-{problem}",
                "The control of each run",
                "In grey and dashed networks retrained without pruning, in the colour of the run the pruned ones at the least density "
                f"that it shares with another, or else at its last level. {_EACH}, bars reach from the least to the greatest network.",
                " ".join(
                    f"{one.run}: on average {one.similarity:.2f} retrained without pruning, {one.pruned:.2f} pruned."
                    for one in controls(aligned)
                    if not math.isnan(one.similarity)
                ),
                lambda: recipes.controls_by_recipe(similarity, last, runs, metric),
                problem,
                wide=similarity.loc[similarity["control"], "run"].nunique() > 1,
            )
        )
    return found


def section(aligned: Alignment, drawn: Sequence[DrawnPicture]) -> Section:
    """One problem, with those of the pictures that are about it."""
    return Section(
        name=aligned.problem,
        runs=list(aligned.runs),
        remarks=aligned.remarks,
        unpruned=_unpruned(aligned),
        meetings=not aligned.meetings.empty,
        rows=_rows(aligned),
        controls=controls(aligned),
        drawn=[one for one in drawn if one.picture.problem == aligned.problem],
    )


def reached(aligned: Alignment) -> pd.DataFrame:
    """Run, level and density of the least density that a run shares with another; of its last level where it shares none."""
    rows = []
    for run in aligned.runs:
        shared = aligned.meetings[aligned.meetings["run"] == run]
        if len(shared):
            rows.append((run, int(shared["level"].iloc[-1]), float(shared["density"].iloc[-1])))
        elif (end := _last(aligned, run)) is not None:
            rows.append((run, *end))
    return pd.DataFrame(rows, columns=["run", "level", "density"])


def controls(aligned: Alignment) -> list[Control]:
    """The controls of every run that has some."""
    every = aligned.levels[aligned.levels["control"]]
    layers = summarise(aligned.similarity, ["layer"], "value")
    places = reached(aligned)
    found = []
    for run in aligned.runs:
        accuracy = every.loc[every["run"] == run, "test_accuracy"]
        if accuracy.empty:
            continue
        own, place = layers[layers["run"] == run], places[places["run"] == run]
        is_control = own["control"].astype(bool)
        level, density = (place["level"].iloc[0], float(place["density"].iloc[0])) if len(place) else (-1, math.nan)
        pruned = own.loc[~is_control & (own["level"] == level).fillna(False), "median"]
        similarity = float(own.loc[is_control, "median"].mean())
        found.append(Control(run, len(accuracy), float(accuracy.median()), similarity, float(pruned.mean()), density))
    return found


def claim_rows(claims: Mapping[str, Sequence[Claim]]) -> list[tuple[str, list[ClaimRow]]]:
    """The claims in their order, with a row for each problem and statistic, as the template takes them."""
    found: dict[tuple[str, str, str], dict[str, Claim]] = {}
    for run, own in claims.items():
        for claim in own:
            found.setdefault((claim.claim, claim.problem, claim.statistic), {})[run] = claim
    groups: list[tuple[str, list[ClaimRow]]] = []
    for code in STATEMENTS:
        rows = []
        for (letter, problem, statistic), judged in found.items():
            if letter == code:
                any_of_them = next(iter(judged.values()))
                cells = [judged.get(run) for run in claims]
                rows.append(ClaimRow(problem, any_of_them.statement, statistic, any_of_them.expected, cells))
        if rows:
            groups.append((code, rows))
    return groups


def _rows(aligned: Alignment) -> list[Row]:
    """The unpruned network, every density that is shared, the last level and the controls."""
    accuracy = summarise(aligned.levels, [], "test_accuracy")
    cells: dict[tuple[str, int], Cell] = {}
    for row in accuracy.to_dict("records"):
        place = (str(row["run"]), -1 if row["control"] else int(row["level"]))
        cells[place] = Cell(row["median"], row["least"], row["greatest"], row["networks"])
    rows = [Row("100 %, unpruned", [cells.get((run, 0)) for run in aligned.runs])]
    for _, members in aligned.meetings.groupby("meeting"):
        at = {str(one["run"]): (int(one["level"]), float(one["density"])) for one in members.to_dict("records")}
        rows.append(
            Row(_percent(members["shared"].iloc[0]), [_placed(cells, run, at.get(run)) for run in aligned.runs])
        )
    rows.append(Row("last level", [_placed(cells, run, _last(aligned, run)) for run in aligned.runs]))
    rows.append(Row("retrained without pruning", [cells.get((run, -1)) for run in aligned.runs]))
    return [row for row in rows if any(row.cells)]


def _placed(cells: Mapping[tuple[str, int], Cell], run: str, place: tuple[int, float] | None) -> Cell | None:
    if place is None or (run, place[0]) not in cells:
        return None
    cell = cells[run, place[0]]
    return Cell(cell.median, cell.least, cell.greatest, cell.networks, f"level {place[0]}: {_percent(place[1])}")


def _last(aligned: Alignment, run: str) -> tuple[int, float] | None:
    """The last level of a run and its density."""
    rows = aligned.levels[(aligned.levels["run"] == run) & ~aligned.levels["control"] & (aligned.levels["level"] > 0)]
    if rows.empty:
        return None
    level = int(rows["level"].max())
    return level, float(rows.loc[rows["level"] == level, "density"].median())


def _unpruned(aligned: Alignment) -> str:
    """Whether the runs start from the same network, as far as that is known."""
    rows = aligned.levels[~aligned.levels["control"] & (aligned.levels["level"] == 0)]
    if "digest" not in rows or rows["digest"].isna().any():
        return ""
    if rows["digest"].nunique() == 1:
        return "All runs prune the same network."
    return "The runs do not prune the same network: their unpruned networks differ, and so do the similarities for that reason alone."


def _chosen(meetings: pd.DataFrame) -> str:
    count, shown = meetings["meeting"].nunique(), len(recipes.drawn(meetings))
    return f" Drawn are {shown} of the {count} densities that runs share." if shown < count else ""


def _accuracy_in_words(aligned: Alignment) -> str:
    parts = []
    levels = aligned.levels[~aligned.levels["control"]]
    for run in aligned.runs:
        medians = levels[levels["run"] == run].groupby("level")[["test_accuracy", "density"]].median()
        if len(medians):
            first, last = medians.iloc[0], medians.iloc[-1]
            text = f"{run}: {_percent(first['test_accuracy'])} with {_percent(first['density'])} of the parameters"
            if len(medians) > 1:
                text += f", {_percent(last['test_accuracy'])} with {_percent(last['density'])} left"
            parts.append(text)
    return f"{'; '.join(parts)}."


def _similarity_in_words(similarity: pd.DataFrame, meetings: pd.DataFrame, runs: Sequence[str]) -> str:
    """The least similar layer of every run at the least density that is shared."""
    members = meetings[meetings["meeting"] == meetings["meeting"].max()].set_index("run")
    parts = []
    for run in runs:
        if run in members.index:
            level = members.loc[run, "level"]
            rows = similarity[(similarity["run"] == run) & ~similarity["control"] & (similarity["level"] == level)]
            medians = rows.groupby("layer", sort=False)["value"].median().dropna()
            if len(medians):
                parts.append(f"{run} {medians.mean():.2f} on average, least {medians.min():.2f} at {medians.idxmin()}")
    return f"At {_percent(members['shared'].iloc[0])} left: {'; '.join(parts)}."


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
