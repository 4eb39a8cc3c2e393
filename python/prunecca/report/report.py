"""A report of a study: one HTML page that holds everything, its figures as PNG and PDF, and the verdicts as a table.

``run`` reads what a folder has, ``claims`` judges the paper's claims, ``pictures`` chooses the figures and ``page`` puts
the page together. Runs with other options are laid side by side: see ``side_by_side``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..figures import style
from ..figures.style import as_svg
from ..storage.atomic import write_atomic
from ..storage.tables import write_table
from . import pictures, side_by_side
from .claims import MARGIN, Claim, Subject, judge
from .claims.chance import chance_table, has_chance
from .claims.robustness import judge_again
from .page import DrawnPicture, compose
from .run import ReportedRun, read, read_studies


@dataclass(frozen=True)
class Report:
    """What was written.

    Args:
        page: the page, ``index.html``.
        table: of the claims, ``claims.csv``.
        figures: PNG and PDF of every figure; of runs side by side PNG and SVG.
        claims: with their verdicts, as page and table show them; run by run.
        tables: all tables: ``claims.csv``, ``robustness.csv`` (the claims under every measure of the run) and, where the run
            stored what shuffled rows give, ``chance.csv``; of runs side by side ``accuracy.csv`` and ``similarity.csv``.
    """

    page: Path
    table: Path
    figures: list[Path]
    claims: list[Claim]
    tables: list[Path]


def write(
    run_directory: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    *,
    metric: str | None = None,
    margin: float = MARGIN,
    message: Callable[[str], None] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Write the report of a run directory, which may be unfinished, and in which nothing else is changed.

    The same tables give the same bytes. Several run directories made with the same options are read as one study; others
    are laid side by side, with what can be compared of them.

    Args:
        run_directory: a folder made by ``prunecca reproduce``, or its ``config.json`` and tables alone; or several.
        out: folder of ``index.html``, the tables and ``figures/``; None: ``report`` in the (first) run directory, or
            ``side-by-side`` where runs are laid side by side.
        metric: the similarity of the claims and the main figures; None: svcca, or the first there is.
        margin: the loss of accuracy, in [0, 1], that still counts as comparable.
        message: is given, in a sentence each, what was found damaged.
        progress: is given how many figures are done, how many there will be, and the name of the next.

    Returns:
        The paths of what was written, and the claims with their verdicts.

    Raises:
        ConfigurationError: this is no run directory, or no two of several share a problem.
        ValueError: nothing is finished yet, or the metric or margin is impossible.
        CorruptFile: the configuration or a table is damaged.
        StorageError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from prunecca.report import write
        >>> from prunecca.study.options import Options, Size
        >>> from prunecca.study.study import execute, prepare
        >>> folder = tempfile.TemporaryDirectory()
        >>> options = Options.from_flags(epochs=2, rewind_epoch=1, train_images=64, images=64)
        >>> tables = execute(prepare(["digits2"], options, Size(levels=1, replicates=1, controls=0), folder.name))
        >>> report = write(folder.name)
        >>> report.page.name, report.table.name, report.figures[0].name
        ('index.html', 'claims.csv', 'accuracy.png')
        >>> {claim.verdict for claim in report.claims}  # a single replicate is not enough
        {'not enough data'}
        >>> folder.cleanup()
    """
    if not 0 <= margin <= 1:
        raise ValueError(f"margin is {margin}; expected a loss of accuracy from 0 to 1, such as {MARGIN}")
    folders = [run_directory] if isinstance(run_directory, str | os.PathLike) else list(run_directory)
    runs = [read(folders[0], message)] if len(folders) == 1 else read_studies(folders, message)
    folder = Path(folders[0]) / ("report" if len(runs) == 1 else "side-by-side") if out is None else Path(out)
    within = next((Path(root) for root in folders if _lies_in(folder, Path(root))), folder)
    if len(runs) > 1:
        metric = side_by_side.choose_metric(runs, metric)
        judged = [judge(run.tables, _subjects(run), metric=metric, margin=margin) for run in runs]
        side = side_by_side.prepare(runs, judged, metric=metric, margin=margin)
        tables, files = side_by_side.write(side, folder, within, progress)
        every = [claim for own in judged for claim in own]
        return Report(folder / "index.html", folder / side_by_side.CLAIMS, files, every, tables)
    run = runs[0]
    metric, subjects = run.choose_metric(metric), _subjects(run)
    claims = judge(run.tables, subjects, metric=metric, margin=margin)
    again = judge_again(claims, run.tables, subjects, metric)
    chosen = pictures.choose(run, metric)
    figures: list[Path] = []
    drawn: list[DrawnPicture] = []
    for number, picture in enumerate(chosen, 1):
        if progress is not None:
            progress(number - 1, len(chosen), picture.name)
        figure = picture.draw()
        figures += style.save(figure, folder / "figures" / picture.name, within=within)
        drawn.append(DrawnPicture(number, picture, as_svg(figure)))
    page, table, robustness = folder / "index.html", folder / "claims.csv", folder / "robustness.csv"
    write_atomic(page, compose(run, (claims, again), drawn, metric, margin).encode(), within)
    write_table(table, pd.DataFrame([dataclasses.asdict(claim) for claim in claims]), within)
    write_table(robustness, again.table(), within)
    tables = [table, robustness]
    if has_chance(run.tables["similarity"]):
        tables.append(folder / "chance.csv")
        write_table(tables[-1], chance_table(run.tables["similarity"]), within)
    return Report(page, table, figures, claims, tables)


def _lies_in(folder: Path, root: Path) -> bool:
    """Whether a folder is one of a run directory, which may be someone else's; what leads elsewhere is the user's own."""
    return folder.is_relative_to(root) and ".." not in folder.relative_to(root).parts


def _subjects(run: ReportedRun) -> list[Subject]:
    settings = {name: asked["settings"] for name, asked in run.configuration["problems"].items()}
    return [Subject(name, own["dataset"], None if own["network"] else own["classes"]) for name, own in settings.items()]
