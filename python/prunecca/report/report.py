"""A report of a study: one HTML page that holds everything, its figures as PNG and PDF, and the verdicts as a table.

    write("runs/digits4")   ->   runs/digits4/report/index.html, runs/digits4/report/figures/..., runs/digits4/report/claims.csv

`reported_run` reads what is there, `findings` judges the paper's claims, `report_pictures` chooses the figures and
`report_page` puts the page together.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..figures import style
from ..figures.style import as_svg
from ..storage.atomic import write_atomic
from . import pictures
from .claims import MARGIN, Finding, judge
from .page import compose
from .run import read


@dataclass(frozen=True)
class Report:
    """What was written: the page, the table of claims, the figures, and the findings that page and table show."""

    page: Path
    claims: Path
    figures: list[Path]
    findings: list[Finding]


def write(
    run_directory: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    metric: str | None = None,
    margin: float = MARGIN,
    message: Callable[[str], None] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Write the report of a run directory, which may be unfinished, and in which nothing else is changed.

    Args:
        run_directory: see `reported_run.read`.
        out: folder of ``index.html``, ``claims.csv`` and ``figures/``; None: ``report`` in the run directory.
        metric: the similarity of the claims and the main figures; None: svcca, or the first there is.
        margin: the loss of accuracy, in [0, 1], that still counts as comparable.
        message: told, in a sentence each, what was found damaged.
        progress: told how many figures are done, how many there will be, and the name of the next.

    The same tables give the same bytes.

    Raises:
        ConfigurationError: this is no run directory.
        ValueError: nothing is finished yet, or the metric or margin is impossible.
        CorruptFile: the configuration or a table is damaged.
        StorageError: the folder cannot be written.
    """
    if not 0 <= margin <= 1:
        raise ValueError(f"margin is {margin}; expected a loss of accuracy from 0 to 1, such as {MARGIN}")
    run = read(run_directory, message)
    metric = run.choose_metric(metric)
    folder = Path(run_directory) / "report" if out is None else Path(out)
    found = judge(run.tables, metric=metric, margin=margin, problems=run.problems)
    chosen = pictures.choose(run, metric)
    written: list[Path] = []
    drawn: list[tuple[pictures.Picture, bytes]] = []
    for done, picture in enumerate(chosen):
        if progress is not None:
            progress(done, len(chosen), picture.name)
        figure = picture.draw()
        written += style.save(figure, folder / "figures" / picture.name)
        drawn.append((picture, as_svg(figure)))
    page = folder / "index.html"
    write_atomic(page, compose(run, metric, margin, found, drawn).encode())
    claims = folder / "claims.csv"
    write_atomic(claims, pd.DataFrame([dataclasses.asdict(finding) for finding in found]).to_csv(index=False).encode())
    return Report(page, claims, written, found)
