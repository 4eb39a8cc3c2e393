"""What a report is about: a run directory, or the small folder of tables that remains of one without its weights."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .. import errors
from ..errors import ConfigurationError
from ..storage import states
from ..storage.regular_files import exists
from ..study import schema, tables
from ..study.options import SHORT_EPOCHS, Options, Size
from ..study.plan import Network, Plan
from ..study.run_directory import ENVIRONMENT, RECORD, RunDirectory
from ..study.schema import merge_configuration
from ..study.tables import KEY

PAPER_METRIC = "svcca"
_NEEDED = {
    "levels": [*KEY, "density", "parameters_left", "test_accuracy"],
    "layers": [*KEY, "layer", "density"],
    "similarity": [*KEY, "layer", "kind", "depth", "metric", "value"],
    "dimension": [*KEY, "layer", "kind", "depth", "dimension", "error"],
}
_ROW = {  # the columns that name a row of a table
    "levels": KEY,
    "layers": [*KEY, "layer"],
    "similarity": [*KEY, "layer", "metric"],
    "dimension": [*KEY, "layer"],
    "epochs": [*KEY, "epoch"],
    "timing": [*KEY, "epoch"],
}


@dataclass(frozen=True)
class ReportedRun:
    """A study so far.

    Args:
        name: of its folder.
        configuration: the content of ``config.json``.
        starts: what is known of the machines, oldest first.
        tables: see ``study.tables``; those without rows may lack columns.
        pieces: all networks that were asked for.
    """

    name: str
    configuration: dict[str, Any]
    starts: list[dict[str, Any]]
    tables: dict[str, pd.DataFrame]
    pieces: list[Network]

    @property
    def problems(self) -> list[str]:
        """All problems that were asked for."""
        return list(self.configuration["problems"])

    @property
    def metrics(self) -> list[str]:
        """The metrics of the similarity table."""
        similarity = self.tables["similarity"]
        return [] if similarity.empty else [str(name) for name in similarity["metric"].unique()]

    @property
    def has_begun(self) -> bool:
        """Whether a network is finished."""
        return not self.tables["levels"].empty

    @property
    def finished(self) -> set[Network]:
        """The networks that the tables hold."""
        if not self.has_begun:
            return set()
        return {
            Network(problem, 0 if level == 0 or control else replicate, level, control)
            for problem, replicate, level, control in self.tables["levels"][KEY].itertuples(index=False)
        }

    def unfinished(self, problem: str) -> list[Network]:
        """The networks of a problem that were asked for and are not in the tables."""
        done = self.finished
        return [piece for piece in self.pieces if piece.problem == problem and piece not in done]

    def size(self, problem: str) -> Size:
        """The levels, replicates and controls that were asked for."""
        return Size(**self.configuration["problems"][problem]["size"])

    def rows(self, table: str, problem: str, *, metric: str | None = None) -> pd.DataFrame:
        """The rows of a table about one problem (and metric)."""
        rows = self.tables[table]
        if rows.empty:
            return rows
        rows = rows[rows["problem"] == problem]
        return rows if metric is None else rows[rows["metric"] == metric]

    def with_pruned(self) -> list[str]:
        """The problems of which a pruned network or a control is finished: those with something to compare."""
        levels = self.tables["levels"]
        found = set(levels.loc[levels["level"] > 0, "problem"])
        return [problem for problem in self.problems if problem in found]

    def choose_metric(self, asked: str | None) -> str:
        """The metric asked for; None: that of the paper, or where it was not computed the first there is.

        Raises:
            ValueError: it was not computed in this run.
        """
        if asked is None:
            return PAPER_METRIC if PAPER_METRIC in self.metrics or not self.metrics else self.metrics[0]
        if asked not in self.metrics:
            raise ValueError(f"{self.name} has no metric {asked!r}; it has {', '.join(self.metrics) or 'none yet'}")
        return asked

    def seconds(self) -> float:
        """The time of training, summed over the networks; 0 where it was not stored."""
        timing = self.tables["timing"]
        if timing.empty:
            return 0.0
        shared = (timing["level"] == 0) & (timing["replicate"] > 0)  # level 0 is repeated for each replicate
        return float(timing.loc[~shared, "seconds"].sum())

    def commands(self) -> list[str]:
        """The command lines, one per size, that make these numbers in an empty folder; without --out and --data."""
        defaults, given = Options().flags(), Options.from_json(self.configuration["options"]).flags()
        words: list[str] = []
        for name, value in given.items():
            flag = f"--{name.replace('_', '-')}"
            if value is None or value == defaults.get(name):
                continue
            if isinstance(value, bool):
                words.append(flag)
            else:
                words += [flag, ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]
        groups: dict[tuple[str, ...], list[str]] = {}
        for problem, asked in self.configuration["problems"].items():
            paper = given.get("epochs") is None and asked["settings"]["epochs"] > SHORT_EPOCHS
            size = _size_flags(self.size(problem))
            key = (
                *(["--paper"] if paper else []),
                *(word for name, value in size.items() for word in (f"--{name}", value)),
            )
            groups.setdefault(key, []).append(problem)
        return [shlex.join(["prunecca", "reproduce", *problems, *key, *words]) for key, problems in groups.items()]


def _size_flags(size: Size) -> dict[str, str]:
    numbers = size.numbers
    replicates = str(size.replicates) if numbers.start == 0 else f"{numbers.start}:{numbers.stop}"
    return {"levels": str(size.levels), "replicates": replicates, "controls": str(size.controls)}


def read(folder: str | os.PathLike[str], message: Callable[[str], None] | None = None) -> ReportedRun:
    """What can be reported of a folder. Nothing in it is changed.

    The tables are made from the finished networks where those are in the folder; otherwise the tables stored under
    ``tables/``, or beside ``config.json``, are taken, as Parquet or CSV.

    Args:
        folder: a run directory, or one that holds at least ``config.json`` and the table ``levels``.
        message: is given, in a sentence each, what was found damaged.

    Raises:
        ConfigurationError: this is no run directory.
        ValueError: no network is finished yet.
        CorruptFile: the configuration or a table is damaged.
    """
    run = _read_so_far(folder, message)
    if not run.has_begun:
        raise ValueError(_nothing(folder))
    return run


def read_studies(
    folders: Sequence[str | os.PathLike[str]], message: Callable[[str], None] | None = None
) -> list[ReportedRun]:
    """Several folders as studies: those made with the same options and images are one, whose replicates lie in several.

    Args:
        folders: as in ``read``; some may have nothing finished yet.
        message: is given, in a sentence each, what was found damaged, or unpruned networks that differ.

    Returns:
        One run for all folders of the same options, in the order of their first folders.

    Raises:
        ConfigurationError, CorruptFile: as ``read``.
        ValueError: no network of any of them is finished yet.
    """
    runs = [_read_so_far(folder, message) for folder in folders]
    if not any(run.has_begun for run in runs):
        raise ValueError(_nothing(folders[0]))
    groups: list[tuple[dict[str, Any], list[ReportedRun]]] = []
    for run in runs:
        for number, (configuration, group) in enumerate(groups):
            try:
                merged = merge_configuration(configuration, run.configuration, group[0].name)
            except ConfigurationError:  # another study
                continue
            groups[number] = (merged, [*group, run])
            break
        else:
            groups.append((run.configuration, [run]))
    return [_joined(configuration, group, message) for configuration, group in groups]


def _joined(
    configuration: dict[str, Any], runs: list[ReportedRun], message: Callable[[str], None] | None
) -> ReportedRun:
    """Runs of one study as one."""
    if len(runs) == 1:
        return runs[0]
    made = {name: _rows_of_all(name, [run.tables[name] for run in runs]) for name in tables.NAMES}
    levels = made["levels"]
    for problem, rows in [] if levels.empty else levels[levels["level"] == 0].groupby("problem"):
        if "digest" in rows and rows["digest"].nunique() > 1 and message is not None:
            message(
                f"the unpruned networks of {problem} differ between {', '.join(run.name for run in runs)}: "
                "the spread over replicates includes that; copy one level-00 to all before pruning to avoid it"
            )
    sizes = {name: Size(**one["size"]) for name, one in configuration["problems"].items()}
    plan = Plan(Options.from_json(configuration["options"]), {}, sizes)
    starts = [start for run in runs for start in run.starts]
    return ReportedRun(" + ".join(run.name for run in runs), configuration, starts, made, plan.networks())


def _rows_of_all(name: str, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """A table of several runs, with every row once."""
    filled = [part for part in parts if not part.empty]
    if not filled:
        return pd.DataFrame()
    table = pd.concat(filled, ignore_index=True)
    once = table.drop_duplicates([column for column in _ROW[name] if column in table.columns], ignore_index=True)
    return tables.sorted_rows(once)


def _read_so_far(folder: str | os.PathLike[str], message: Callable[[str], None] | None) -> ReportedRun:
    """As ``read``, with empty tables where nothing is finished."""
    root = Path(folder)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ConfigurationError(f"{root} {what}; expected a folder made by `prunecca reproduce`")
    run = RunDirectory(root, message)
    configuration, plan = run.configuration(), run.plan(problems=False)
    made: dict[str, pd.DataFrame] = {}
    if any(exists(run.path(network, RECORD), root) for network in plan.networks()):
        made = tables.build(run, plan, run.finished())
    if not made or made["levels"].empty:
        made = {name: _stored(root, name) for name in tables.NAMES}
    return ReportedRun(root.resolve().name, configuration, _starts(root), made, plan.networks())


def _nothing(folder: str | os.PathLike[str]) -> str:
    return (
        f"no network of {folder} is finished yet; go on with `prunecca reproduce --out {folder}` and the options it was "
        "begun with"
    )


def _stored(root: Path, name: str) -> pd.DataFrame:
    """A stored table; empty when it is not there."""
    for path in (
        root / "tables" / f"{name}.parquet",
        root / "tables" / f"{name}.csv",
        root / f"{name}.parquet",
        root / f"{name}.csv",
    ):
        try:
            table = tables.read(path, tables.COLUMNS, root)
        except (FileNotFoundError, NotADirectoryError):
            continue
        missing = [column for column in _NEEDED.get(name, []) if column not in table.columns]
        if missing and not table.empty:
            raise errors.CorruptFile(
                f"{path} lacks the columns {', '.join(missing)}; expected the table {name!r} of a run"
            )
        return table
    return pd.DataFrame()


def _starts(root: Path) -> list[dict[str, Any]]:
    path = root / ENVIRONMENT
    try:
        return schema.check_environment(states.read_json(path, root), path)
    except (FileNotFoundError, errors.CorruptFile):  # the numbers can be reported without it
        return []
