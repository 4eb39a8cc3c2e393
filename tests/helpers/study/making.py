"""Run directories whose networks are made in no time: they follow from their parents, as trained networks do."""

import dataclasses

import pandas as pd
import torch

from prunecca.problems import find_problem
from prunecca.storage import states
from prunecca.storage.tables import parquet
from prunecca.study import tables
from prunecca.study.executors import Outcome
from prunecca.study.level import MASKS, REWIND, SIMILARITY, STATE
from prunecca.study.options import FORMAT, Options, Size
from prunecca.study.plan import NetworkResult
from prunecca.study.reporter import Reporter
from prunecca.study.study import make_networks

SETTINGS = {
    "image_size": 32,
    "train_images": None,
    "test_images": None,
    "precision": "float32",
    "data": "d",
    "epochs": 4,
}


def configuration(levels=2, replicates=2, controls=1, problems=("digits2",), settings=None, first=0, **flags):
    size = dataclasses.asdict(Size(levels, replicates, controls, first))

    def resolved(name):
        return {**dataclasses.asdict(find_problem(name)), **SETTINGS, **(settings or {})}

    return {
        "format": FORMAT,
        "options": Options.from_flags(**flags).as_json(),
        "problems": {name: {"size": size, "settings": resolved(name)} for name in problems},
    }


class Maker:
    """An executor whose networks follow from their parents, as trained networks do."""

    def __init__(self, run, weights=None):
        self.run, self.weights = run, weights or {}
        self.made, self.tasks = [], []

    @property
    def free(self):
        return 1 - len(self.tasks)

    def submit(self, task):
        self.tasks.append(task)

    def close(self):
        pass

    def wait(self):
        task = self.tasks.pop()
        network, plan = task.network, self.run.plan()
        weight, parent = torch.zeros(3), plan.parent(network)
        if parent is not None:
            weight = task.parents[parent].tensors(STATE)["weight"] + network.level + 10 * network.replicate
        weight = self.weights.get(network, weight)
        table = pd.DataFrame({"layer": ["conv1"], "kind": ["conv"], "depth": [0], "metric": ["svcca"], "value": [1.0]})
        content = states.state_bytes({"weight": weight})
        files = {STATE: content, REWIND if network.level == 0 else MASKS: content, SIMILARITY: parquet(table)}
        density = 0.8**network.level
        summary = {"density": density, "test_accuracy": 0.9, "digest": states.digest({"weight": weight})}
        layers = [{"layer": "conv1", "density": density}]
        epochs = [{"epoch": 1, "train_loss": 0.5, "seconds": 0.1}]
        self.made.append(network)
        return Outcome(network, NetworkResult(files, summary, layers, epochs))


def work(run, maker=None):
    """Make what is missing; the networks that were made."""
    maker = maker or Maker(run)
    with run.own():
        make_networks(run, run.plan(), lambda: maker, Reporter())
    return maker.made


def table_of(run):
    return tables.build(run, run.plan(), run.finished())
