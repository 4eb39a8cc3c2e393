"""The tidy tables of a study, made from the finished networks of a run directory.

levels: problem, replicate, level, control, density, parameters_left, test_accuracy, test_loss, epochs, best_epoch, digest
layers: problem, replicate, level, control, layer, parameters, parameters_left, density
similarity: problem, replicate, level, control, layer, kind (conv, pool, fc), depth, metric, value, count, channels, kept_x, kept_y
dimension: problem, replicate, level, control, layer, kind, depth, dimension, error, count, duplicates, features
epochs: problem, replicate, level, control, epoch, train_loss, train_accuracy, val_loss, val_accuracy, test_loss, test_accuracy
timing: problem, replicate, level, control, epoch, seconds (the only table that two runs do not share bit by bit)

Level 0 is one network that all replicates share; it is repeated for each of them, with the same digest, so that every
replicate is a whole curve. In the rows of a control, level n is its number: it was retrained with the seeds of level n.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import CorruptFile
from ..storage.regular_files import exists
from ..storage.tables import read_table, write_table
from .level import DIMENSION, SIMILARITY
from .options import MOST_NETWORKS, Size
from .plan import Network, Plan
from .run_directory import Record, RunDirectory
from .schema import is_name

NAMES = ("levels", "layers", "similarity", "dimension", "epochs", "timing")
KEY = ["problem", "replicate", "level", "control"]
# The kind of every column: of what is stored of one network, and of the tables of all.
OF_NETWORK = {
    **dict.fromkeys(("layer", "kind", "metric"), "text"),
    **dict.fromkeys(("depth", "count", "channels", "features"), "int"),
    **dict.fromkeys(("value", "chance", "kept_x", "kept_y", "dimension", "error", "duplicates"), "float"),
}
COLUMNS = {
    **dict.fromkeys(("problem", "digest", "split"), "text"),
    **dict.fromkeys(("replicate", "level", "epoch"), "int"),
    "control": "bool",
    **OF_NETWORK,
    **dict.fromkeys(("density", "parameters", "parameters_left", "epochs", "best_epoch", "seconds"), "float"),
    **dict.fromkeys((f"{part}_{what}" for part in ("train", "val", "test") for what in ("loss", "accuracy")), "float"),
}
_NEEDED = {
    "similarity": ("layer", "kind", "depth", "metric", "value"),
    "dimension": ("layer", "kind", "depth", "dimension", "error"),
}
_NAMED = "letters, digits and _ . -"
_MOST_LAYERS = 2000  # of one table: more cannot be drawn
_MOST_METRICS = 64
_EPOCH = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy"]


def build(run: RunDirectory, plan: Plan, records: Mapping[Network, Record]) -> dict[str, pd.DataFrame]:
    """The tables of the networks finished so far; a table without rows has no columns."""
    rows: dict[str, list[Any]] = {name: [] for name in NAMES}
    stored: dict[str, list[pd.DataFrame]] = {"similarity": [], "dimension": []}
    for network, record in records.items():
        for key in _keys(network, plan.sizes[network.problem]):
            rows["levels"].append({**key, **record["summary"]})
            rows["layers"] += [{**key, **layer} for layer in record["layers"]]
            for epoch in record["epochs"]:
                rows["epochs"].append({**key, **{name: epoch.get(name, float("nan")) for name in _EPOCH}})
                rows["timing"].append({**key, "epoch": epoch["epoch"], "seconds": epoch["seconds"]})
            for name, file in (("similarity", SIMILARITY), ("dimension", DIMENSION)):
                if file in record["files"]:
                    table = read(run.path(network, file), OF_NETWORK, run.root)
                    missing = [column for column in _NEEDED[name] if column not in table.columns]
                    if missing or table.empty:
                        what = f"lacks the columns {', '.join(missing)}" if missing else "has no rows"
                        raise CorruptFile(f"{run.path(network, file)} {what}; remove it and run again")
                    stored[name].append(table.assign(**key)[[*KEY, *table.columns]])
    tables = {name: pd.DataFrame(rows[name]) for name in NAMES}
    for name, parts in stored.items():
        tables[name] = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return {name: sorted_rows(table) for name, table in tables.items()}


def write(run: RunDirectory, plan: Plan, records: Mapping[Network, Record]) -> dict[str, pd.DataFrame]:
    """Make the tables and write each as Parquet and CSV under ``tables/``; return them."""
    tables = build(run, plan, records)
    for name, table in tables.items():
        folder = run.root / "tables"
        write_table(folder / f"{name}.parquet", table, run.root)
        write_table(folder / f"{name}.csv", table, run.root)
    return tables


def load(run_directory: str | os.PathLike[str]) -> dict[str, pd.DataFrame]:
    """The tables under ``tables/`` of a run directory, by name.

    Raises:
        FileNotFoundError: the folder has no tables (yet).
    """
    root = Path(run_directory)
    folder = root / "tables"
    if not exists(folder / "levels.parquet", root):
        raise FileNotFoundError(f"{run_directory} has no tables; run `prunecca reproduce --out {run_directory}` first")
    return {name: read(folder / f"{name}.parquet", COLUMNS, root) for name in NAMES}


def read(path: Path, columns: Mapping[str, str], root: Path) -> pd.DataFrame:
    """A table of a run directory, which may come from someone else.

    Args:
        path: of the file.
        columns: ``OF_NETWORK`` or ``COLUMNS``.
        root: the run directory.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFile: it is no such table; the sentence says why.
    """
    table = read_table(path, columns, root)
    if table.empty:
        return table
    for name, is_right, expected in (
        ("problem", is_name, _NAMED),
        ("metric", is_name, _NAMED),
        ("kind", is_name, _NAMED),
        ("level", lambda level: level <= MOST_NETWORKS, f"at most {MOST_NETWORKS}"),
    ):
        odd = [value for value in table[name].unique() if not is_right(value)] if name in table else []
        if odd:
            raise CorruptFile(f"{path} has {str(odd[0])[:60]!a} in its column {name}; expected {expected}")
    for name, most in (("layer", _MOST_LAYERS), ("metric", _MOST_METRICS)):
        if name in table and table[name].nunique() > most:
            raise CorruptFile(
                f"{path} has {table[name].nunique()} values in its column {name}; expected at most {most}"
            )
    return table


def _keys(network: Network, size: Size) -> list[dict[str, Any]]:
    replicates = size.numbers if network.level == 0 else [network.replicate]
    return [
        {"problem": network.problem, "replicate": r, "level": network.level, "control": network.control}
        for r in replicates
    ]


def sorted_rows(table: pd.DataFrame) -> pd.DataFrame:
    """A table by problem (as they come), control, replicate and level."""
    if table.empty:
        return table
    order = {name: place for place, name in enumerate(table["problem"].unique())}
    by = ["problem", "control", "replicate", "level"]
    return table.sort_values(
        by, key=lambda column: column.map(order) if column.name == "problem" else column, kind="stable"
    ).reset_index(drop=True)
