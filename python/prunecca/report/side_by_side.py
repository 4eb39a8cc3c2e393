"""Runs side by side: one page, its figures and tables, for recipes that are to be compared with each other."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..figures import style
from ..machine.info import build_info
from ..similarity.registry import METRIC_NAMES
from ..storage.atomic import write_atomic
from ..storage.tables import write_table
from . import sections
from .alignment import TOLERANCE, Alignment, align, summarise
from .claims import Claim
from .labels import differences, labels
from .page import DrawnPicture, style_sheet, template
from .run import PAPER_METRIC, ReportedRun

ACCURACY, SIMILARITY, CLAIMS = "accuracy.csv", "similarity.csv", "claims.csv"
_SUMMARY = ["median", "least", "greatest"]


@dataclass(frozen=True)
class SideBySide:
    """What is laid side by side.

    Args:
        runs: by their labels, in order.
        claims: of each run, as they were judged.
        metric: the similarity of figures, tables and claims.
        margin: the loss of accuracy that counts as comparable.
        alignments: one for each problem that at least two runs share.
    """

    runs: Mapping[str, ReportedRun]
    claims: Mapping[str, Sequence[Claim]]
    metric: str
    margin: float
    alignments: Sequence[Alignment]


def prepare(
    runs: Sequence[ReportedRun], claims: Sequence[Sequence[Claim]], *, metric: str, margin: float
) -> SideBySide:
    """Align the runs.

    Args:
        runs: in order, those of which nothing is finished too.
        claims: of each of them, judged with this metric and margin.
        metric: see ``choose_metric``.
        margin: the loss of accuracy that counts as comparable.

    Raises:
        ConfigurationError: no two of them share a problem.
    """
    names = labels(runs)
    named = dict(zip(names, runs, strict=True))
    return SideBySide(named, dict(zip(names, claims, strict=True)), metric, margin, align(named, metric))


def choose_metric(runs: Sequence[ReportedRun], asked: str | None) -> str:
    """The metric asked for; None: of those that most runs have, that of the paper or the first.

    Raises:
        ValueError: no run has the one asked for.
    """
    counts: dict[str, int] = {}
    for name in itertools.chain.from_iterable(run.metrics for run in runs):
        counts[name] = counts.get(name, 0) + 1
    if asked is not None and asked not in counts:
        raise ValueError(f"no run has the metric {asked!r}; they have {', '.join(counts) or 'none yet'}")
    if asked is not None or not counts:
        return asked or PAPER_METRIC
    most = [name for name, count in counts.items() if count == max(counts.values())]
    return PAPER_METRIC if PAPER_METRIC in most else most[0]


def write(
    side: SideBySide, folder: Path, within: Path, progress: Callable[[int, int, str], None] | None = None
) -> tuple[list[Path], list[Path]]:
    """Write ``index.html``, ``accuracy.csv``, ``similarity.csv``, ``claims.csv`` and ``figures/`` as SVG and PNG.

    Args:
        side: what ``prepare`` made.
        folder: where to.
        within: the folder below which no link is followed.
        progress: is given how many figures are done, how many there will be, and the name of the next.

    Returns:
        The tables, and the figures.
    """
    pictures = [picture for aligned in side.alignments for picture in sections.pictures(aligned, side.metric)]
    files: list[Path] = []
    drawn: list[DrawnPicture] = []
    for number, picture in enumerate(pictures, 1):
        if progress is not None:
            progress(number - 1, len(pictures), picture.name)
        figure = picture.draw()
        path = folder / "figures" / picture.name
        files += style.save(figure, path, kinds=("png",), within=within)
        svg = style.as_svg(figure)
        files.append(path.with_name(f"{picture.name}.svg"))
        write_atomic(files[-1], svg, within)
        drawn.append(DrawnPicture(number, picture, svg))
    write_atomic(folder / "index.html", compose(side, drawn).encode(), within)
    made = {ACCURACY: _accuracy_table(side), SIMILARITY: _similarity_table(side), CLAIMS: _claims_table(side)}
    for name, table in made.items():
        write_table(folder / name, table, within)
    return [folder / name for name in made], files


def compose(side: SideBySide, drawn: Sequence[DrawnPicture]) -> str:
    """The page.

    Args:
        side: what ``prepare`` made.
        drawn: all pictures, in the order of their numbers.
    """
    page = template("side_by_side.html.jinja").render(
        style=style_sheet(),
        version=build_info()["version"],
        metric=METRIC_NAMES.get(side.metric, side.metric),
        margin=side.margin,
        tolerance=TOLERANCE,
        runs=[sections.about(number, name, run) for number, (name, run) in enumerate(side.runs.items())],
        notices=[text for name, run in side.runs.items() if (text := sections.still_to_come(name, run))],
        differences=differences(list(side.runs.values())),
        sections=[sections.section(aligned, drawn) for aligned in side.alignments],
        claims=sections.claim_rows(side.claims),
    )
    return page.encode(errors="backslashreplace").decode()  # a folder may have a name that is no UTF-8


def _accuracy_table(side: SideBySide) -> pd.DataFrame:
    """Every level and the controls of every run."""
    parts = []
    for aligned in side.alignments:
        densities = summarise(aligned.levels, [], "density")[["run", "control", "level", "median"]]
        rows = summarise(aligned.levels, [], "test_accuracy").merge(
            densities.rename(columns={"median": "density"}), on=["run", "control", "level"], how="left"
        )
        parts.append(_with_shared(rows, aligned))
    table = pd.concat(parts, ignore_index=True)
    return table[["problem", "run", "control", "level", "density", "shared_density", "networks", *_SUMMARY]]


def _similarity_table(side: SideBySide) -> pd.DataFrame:
    """Every layer of every level and of the controls of the runs that can be compared."""
    own = ["layer", "kind", "depth", "metric"]
    parts = []
    for aligned in side.alignments:
        rows = summarise(aligned.similarity, own, "value")
        parts.append(_with_shared(rows, aligned))
    table = pd.concat(parts, ignore_index=True)
    return table[["problem", "run", "control", "level", "shared_density", *own, "networks", *_SUMMARY]]


def _with_shared(rows: pd.DataFrame, aligned: Alignment) -> pd.DataFrame:
    """With the problem, and the density of the meeting that a level is in."""
    meetings = aligned.meetings[["run", "level", "shared"]].rename(columns={"shared": "shared_density"})
    meetings = meetings.assign(level=meetings["level"].astype("Int64"), control=False)
    rows = rows.assign(level=rows["level"].astype("Int64"), control=rows["control"].astype(bool))
    return rows.merge(meetings, on=["run", "level", "control"], how="left").assign(problem=aligned.problem)


def _claims_table(side: SideBySide) -> pd.DataFrame:
    """As the table of a single report, with the run in front."""
    rows = [{"run": name, **dataclasses.asdict(claim)} for name, own in side.claims.items() for claim in own]
    return pd.DataFrame(rows, columns=["run", *(field.name for field in dataclasses.fields(Claim))])
