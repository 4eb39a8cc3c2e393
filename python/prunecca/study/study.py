"""The paper's study (Ansuini et al. 2020, section 4): train, prune, retrain, compare; one network at a time.

    run = prepare(["digits4"], Options(), Size(levels=5, replicates=2), "runs/digits4")
    tables = execute(run)

`prepare` settles what is asked for. `execute` makes the networks that are not there yet: it reads the configuration once,
hands networks to an executor (this process, worker processes, or a Ray cluster), and alone writes what comes back; then the
tables and figures. Both may be called again: what is finished stays.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..errors import ConfigurationError
from ..figures import style
from ..figures.study import accuracy_figure, similarity_figure
from ..machine.info import build_info, choose_device
from ..storage.atomic import remove_partial
from . import tables
from .executors import Executor, Job, Processes, Serial, Task
from .options import FORMAT, Options, Size
from .plan import Network, Plan
from .ray_executor import RayExecutor
from .reporter import Reporter
from .resolve import resolve, with_faster_precision
from .run_directory import Record, RunDirectory, agreeing, origin

_MOST = 4096  # of workers, threads and GPUs: more is a slip of the finger


@dataclass(frozen=True)
class Workers:
    """Where the networks of a study are made.

    Attributes:
        engine: ``"local"``: this process, or worker processes on this machine; ``"ray"``: the machines of a Ray cluster.
        count: worker processes; None for one here, and for all there is room for on Ray.
        threads: of the CPU, for each network; None: torch's own, shared among local workers.
        device: auto, cpu, cuda or cuda:N.
        address: of a Ray cluster; None starts a local one.
        gpus_per_network: on Ray, a fraction of a GPU.
    """

    engine: str = "local"
    count: int | None = None
    threads: int | None = None
    device: str = "auto"
    address: str | None = None
    gpus_per_network: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("workers", self.count), ("threads", self.threads)):
            if value is not None and not 1 <= value <= _MOST:
                raise ConfigurationError(f"{name} is {value}; expected 1 to {_MOST}")
        if not 0 <= self.gpus_per_network <= _MOST:
            raise ConfigurationError(f"gpus-per-network is {self.gpus_per_network}; expected 0 to {_MOST}")


def prepare(
    problems: Iterable[str],
    options: Options,
    size: Size,
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    short: bool = True,
    device: str = "auto",
    message: Callable[[str], None] | None = None,
) -> RunDirectory:
    """The configured run directory of a study; an existing one is continued or extended.

    Args:
        problems: names of `models.PROBLEMS`, or torchvision classifiers on an image folder.
        options, size: see `configuration`.
        out: the run directory.
        data: folder of the images; None: the variable PRUNECCA_DATA. The digits need none.
        short: at most 10 epochs where `options.epochs` is None, instead of the problem's own.
        device: on which the precision ``"auto"`` is measured, once for a run directory.
        message: told, in a sentence each, what was found damaged, and which precision was chosen.

    Raises:
        ConfigurationError: an option is impossible, or differs from those the directory was made with.
        ValueError, FileNotFoundError: an unknown problem, images that are not there or damaged.
        StorageError: the directory cannot be written.
    """
    resolved = {name: resolve(name, options, data, short=short) for name in dict.fromkeys(problems)}
    directory = RunDirectory(out, message)
    if options.precision == "auto":
        known = directory.precisions()
        for name, problem in resolved.items():
            if name in known:
                resolved[name] = dataclasses.replace(problem, precision=known[name])
            else:
                place = choose_device(device)
                resolved[name] = with_faster_precision(problem, options, data, place, message or (lambda text: None))
    directory.configure(
        {
            "format": FORMAT,
            "options": options.as_json(),
            "problems": {
                name: {"size": dataclasses.asdict(size), "settings": problem.as_json()}
                for name, problem in resolved.items()
            },
        }
    )
    return RunDirectory(out)


def execute(
    run: RunDirectory,
    workers: Workers | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
) -> dict[str, pd.DataFrame]:
    """Make every network that is not finished, then the tables and figures; return the tables.

    On a CPU, with the same number of threads per network, the tables are the same bit by bit however often and wherever
    the run was interrupted, and whoever made which network.

    Args:
        run: the configured run directory.
        workers: where the networks are made; None: in this process.
        data: folder of the images; None: the variable PRUNECCA_DATA.
        reporter: told what happens.

    Raises:
        InUse: another process works on the run directory.
        WorkerFailed: a worker stopped with an error.
    """
    workers, reporter = workers or Workers(), reporter or Reporter()
    here = RunDirectory(run.root, reporter.message)
    with here.own() as owner:
        plan = here.plan()
        threads = workers.threads or max(1, torch.get_num_threads() // (workers.count or 1))
        job = Job(plan, None if data is None else Path(data), workers.device, threads, here.root, owner)
        here.note_environment(_environment(workers, threads))
        records = make_networks(here, plan, lambda: _executor(job, workers, reporter), reporter)
        remove_partial(here.root / "tables", within=here.root)
        made = tables.write(here, plan, records)
        _draw(made, here.root)
    return made


def make_networks(
    run: RunDirectory, plan: Plan, start: Callable[[], Executor], reporter: Reporter
) -> dict[Network, Record]:
    """Make the networks of a plan that are not finished, parents first, and write them; the records of all.

    Args:
        run: the directory, owned by this process.
        plan: its plan.
        start: starts the executor; called when there is something to do.
        reporter: told of each network that is written, and of lost workers.
    """
    whole, running = run.whole(plan), set[Network]()
    records = agreeing(plan, whole)
    reporter.start(str(run.root), len(records), len(plan.networks()))
    executor: Executor | None = None
    try:
        while missing := [network for network in plan.networks() if network not in records]:
            executor = executor or start()
            ready = (one for one in missing if one not in running and all(p in records for p in plan.parents(one)))
            while executor.free > 0 and (network := next(ready, None)) is not None:
                run.begin(network)
                parents = {parent: run.parent(parent, records[parent]) for parent in plan.parents(network)}
                executor.submit(Task(network, parents))
                running.add(network)
            outcome = executor.wait()
            running.remove(outcome.network)
            if outcome.result is None:
                reporter.message(outcome.reason)
                continue
            whole[outcome.network] = run.write(outcome.network, outcome.result, origin(plan, outcome.network, records))
            records = agreeing(plan, whole)
            reporter.end(str(outcome.network), outcome.result.summary)
    finally:
        if executor is not None:
            executor.close()
    run.remove_checkpoints(plan)
    return records


def _executor(job: Job, workers: Workers, reporter: Reporter) -> Executor:
    if workers.engine == "ray":
        return RayExecutor(job, workers.count, workers.address, workers.gpus_per_network, reporter)
    if (workers.count or 1) > 1:
        return Processes(job, min(workers.count or 1, len(job.plan.networks())), reporter)
    return Serial(job, reporter)


def _environment(workers: Workers, threads: int) -> dict[str, Any]:
    """What may matter for the numbers and is not decided by the options."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "engine": workers.engine,
        "device": choose_device(workers.device),
        "workers": workers.count or 1,
        "threads_per_worker": threads,
        **build_info(),
    }


def _draw(made: dict[str, pd.DataFrame], root: Path) -> None:
    if made["levels"].empty:
        return
    folder = root / "figures"
    style.save(accuracy_figure(made["levels"]), folder / "accuracy", within=root)
    for metric in made["similarity"]["metric"].unique():
        figure = similarity_figure(made["similarity"], metric)
        style.save(figure, folder / f"similarity-{metric}", within=root)
