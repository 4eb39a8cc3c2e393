"""The paper's study (Ansuini et al. 2020, section 4): train, prune, retrain, compare; one network at a time.

    run = prepare(["digits4"], Options(), Size(levels=5, replicates=2), "runs/digits4")
    tables = execute(run)

`prepare` settles what is asked for, `execute` makes the pieces that are not there yet (`schedule` shares them out, `maker`
makes each), then the tables and figures. Both may be called again: what is finished stays.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..figures import style
from ..figures.study import accuracy_figure, similarity_figure
from ..machine.info import build_info, choose_device
from ..storage import atomic
from . import executors, tables
from .options import FORMAT, Options, Size
from .reporter import Reporter, Silent
from .resolve import settle
from .run_directory import RunDirectory


def prepare(
    problems: Iterable[str],
    options: Options,
    size: Size,
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    short: bool = True,
    message: Callable[[str], None] | None = None,
) -> RunDirectory:
    """The configured run directory of a study; an existing one is continued or extended.

    Args:
        problems: names of `models.PROBLEMS`, or torchvision classifiers on an image folder.
        options, size: see `configuration`.
        out: the run directory.
        data: folder of the images; None: the variable PRUNECCA_DATA. The digits need none.
        short: at most 10 epochs where `options.epochs` is None, instead of the problem's own.
        message: told, in a sentence each, what was found damaged.

    Raises:
        ConfigurationError: an option is impossible, or differs from those the directory was made with.
        ValueError, FileNotFoundError: an unknown problem, images that are not there or damaged.
        StorageError: the directory cannot be written.
    """
    settings = {name: settle(name, options, data, short=short) for name in dict.fromkeys(problems)}
    RunDirectory(out, message).configure(
        {
            "format": FORMAT,
            "options": options.as_json(),
            "problems": {
                name: {"size": dataclasses.asdict(size), "settings": setting.as_json()}
                for name, setting in settings.items()
            },
        }
    )
    return RunDirectory(out)


def execute(
    run: RunDirectory,
    *,
    data: str | os.PathLike[str] | None = None,
    device: str = "auto",
    workers: int = 1,
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> dict[str, pd.DataFrame]:
    """Make every piece that is not finished, then the tables and figures; return the tables.

    On a CPU, with the same number of threads per process, the tables are the same bit by bit however often and wherever
    the run was interrupted, and whoever made which piece.

    Raises:
        schedule.WorkerFailed: a worker process stopped with an error.
    """
    reporter = reporter or Silent()
    chosen = choose_device(device)
    threads = threads or max(1, torch.get_num_threads() // workers)
    run.note_environment(_environment(chosen, workers, threads))
    task = executors.Task(run.root, None if data is None else Path(data), chosen, threads)
    if workers > 1:
        executors.work_with(task, workers, reporter)
    else:
        task.run(reporter)
    with run.claim_outputs():
        atomic.remove_partial(run.root / "tables")
        made = tables.write(run)
        _draw(made, run.root / "figures")
    return made


def _environment(device: str, workers: int, threads: int) -> dict[str, Any]:
    """What may matter for the numbers and is not decided by the options."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "device": device,
        "workers": workers,
        "threads_per_worker": threads,
        **build_info(),
    }


def _draw(made: dict[str, pd.DataFrame], folder: Path) -> None:
    if made["levels"].empty:
        return
    style.save(accuracy_figure(made["levels"]), folder / "accuracy")
    for metric in made["similarity"]["metric"].unique():
        style.save(similarity_figure(made["similarity"], metric), folder / f"similarity-{metric}")
