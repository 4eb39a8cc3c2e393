"""Small studies for the tests of reports: their configuration and tables, made here."""

import pandas as pd

from prunecca.storage import states
from prunecca.storage.tables import write_table
from prunecca.study import tables
from prunecca.study.options import FORMAT, Options

METRICS = ("svcca", "linear_cka")
OPTIONS = Options.from_flags(epochs=3, rewind_epoch=1, train_images=64, images=48, metrics=METRICS)

LAYERS = [("conv1", "conv"), ("conv2", "conv"), ("pool1", "pool"), ("fc1", "fc")]
CLASSES = {"digits2": 2, "digits6": 6, "cifar2": 2, "cifar4": 4}


def configuration(problems=("digits2",), size=(3, 3, 1), options=OPTIONS, epochs=3):
    settings = {"dataset": "digits", "conv": "8* MP", "fc": "64", "network": None, "epochs": epochs}
    settings |= {"batch": 32, "rates": {"conv": 0.1, "fc": 0.2}}
    size = dict(zip(("levels", "replicates", "controls"), size, strict=True))
    return {
        "format": FORMAT,
        "options": options.as_json(),
        "problems": {
            name: {"size": size, "settings": {"name": name, "classes": CLASSES[name], **settings}} for name in problems
        },
    }


def study_tables(problems=("digits2",), size=(3, 3, 1), dimension=True):
    """Similarity that falls with level and depth, accuracy that falls a little, density that falls by a fifth."""
    levels, replicates, controls = size
    networks = [
        (problem, replicate, level, False)
        for problem in problems
        for replicate in range(replicates)
        for level in range(levels + 1)
    ] + [(problem, 0, level + 1, True) for problem in problems for level in range(controls)]
    rows = {name: [] for name in tables.NAMES}
    for problem, replicate, level, control in networks:
        key = {"problem": problem, "replicate": replicate, "level": level, "control": control}
        step = 0 if control else level
        accuracy = 0.9 - 0.004 * step + 0.001 * replicate * (level > 0)
        left = {"density": 0.8**step, "parameters_left": int(1000 * 0.8**step)}
        rows["levels"].append({**key, **left, "test_accuracy": accuracy})
        rows["timing"].append({**key, "epoch": 1, "seconds": 60.0})
        for depth, (layer, kind) in enumerate(LAYERS):
            where = {**key, "layer": layer, "kind": kind, "depth": depth}
            if kind != "pool":
                rows["layers"].append({**key, "layer": layer, "density": 0.8**step})
            for metric in METRICS:
                moved = 0.05 * step + 0.02 * depth + 0.003 * replicate + 0.01 * control
                rows["similarity"].append({**where, "metric": metric, "value": 1 - moved if level else 1.0})
            if dimension:
                rows["dimension"].append({**where, "dimension": 9.0 - depth - 0.2 * step, "error": 0.5})
    return {name: pd.DataFrame(items) for name, items in rows.items()}


def store(folder, made, config=None, kind="parquet", flat=False):
    """A folder of tables without weights."""
    states.write_json(folder / "config.json", config or configuration())
    where = folder if flat else folder / "tables"
    where.mkdir(exist_ok=True)
    for name, table in made.items():
        write_table(where / f"{name}.{kind}", table)
    return folder
