"""Small studies for tests: made in this process, networks alone, without figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import Tensor

from prunecca.storage import states
from prunecca.study import study, tables
from prunecca.study.checkpoint import TRAINING, Checkpoint
from prunecca.study.executors import Job, Serial
from prunecca.study.options import Options, Size
from prunecca.study.plan import Network
from prunecca.study.reporter import Reporter
from prunecca.study.run_directory import RunDirectory


def start(out: Path, flags: dict[str, Any], size: Size, *problems: str) -> RunDirectory:
    """The configured run directory of a study of digits."""
    return study.prepare(problems or ("digits2",), Options.from_flags(**flags), size, out)


def make(run: RunDirectory, reporter: Reporter | None = None) -> dict[str, pd.DataFrame]:
    """The networks alone, on one thread, and their tables: drawing takes longer than these networks."""
    here = RunDirectory(run.root, (reporter or Reporter()).message)
    with here.own() as owner:
        plan = here.plan()
        job = Job(plan, None, "cpu", 1, here.root, owner)
        records = study.make_networks(here, plan, lambda: Serial(job, reporter or Reporter()), reporter or Reporter())
        return tables.build(here, plan, records)


class Killed(Exception):
    """In the place of a signal."""


def make_killed(run: RunDirectory, numbers: Iterable[int], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """``make``, killed right after each of these snapshots was kept, counted over all runs; the files that were kept."""
    keep, kept = Checkpoint.keep, []

    def until(number: int) -> None:
        def keeping(self: Checkpoint, snapshot: Any, origin: Any, file: str = TRAINING) -> None:
            keep(self, snapshot, origin, file)
            kept.append(file)
            if len(kept) == number:
                raise Killed

        monkeypatch.setattr(Checkpoint, "keep", keeping)

    for number in numbers:
        until(number)
        with pytest.raises(Killed):
            make(run)
    until(0)
    make(run)
    return kept


def state(run: RunDirectory, network: Network, name: str = "state.safetensors") -> dict[str, Tensor]:
    """The tensors of a file of a network."""
    return states.load_state(run.path(network, name))[0]
