"""Run directories of several recipes, for the tests of reports that lay them side by side."""

from reports import METRICS, configuration, store, study_tables

from prunecca.study.options import Options

BASE = {"epochs": 3, "rewind_epoch": 1, "train_images": 64, "images": 48, "metrics": METRICS}
TWELVE = [
    {"recipe": "weight_rewinding"},
    {"recipe": "learning_rate_rewinding"},
    {"recipe": "fine_tuning"},
    {"recipe": "one_shot"},
    {"recipe": "l1", "penalty_epochs": 1},
    {"recipe": "l1_loss", "penalty_epochs": 1},
    {"recipe": "admm", "penalty_epochs": 1},
    {"recipe": "random_mask"},
    {"recipe": "random_reinitialization"},
    {"recipe": "weight_rewinding", "scope": "row"},
    {"recipe": "weight_rewinding", "scope": "2:4"},
    {"recipe": "weight_rewinding", "dropout": 0.1},
]


def side_run(folder, *, problems=("digits2",), size=(3, 3, 1), loss=0.0, power=1.0, made=None, **flags):
    """A folder of tables: accuracy falls by ``loss`` more a level, densities are taken to the ``power``."""
    config = configuration(problems, size, Options.from_flags(**{**BASE, **flags}))
    tables = made or study_tables(problems, size, dimension=False)
    levels = tables["levels"]
    levels["test_accuracy"] -= loss * levels["level"].where(~levels["control"], 0)
    levels["density"] = levels["density"] ** power
    similarity = tables["similarity"]
    if len(similarity):
        similarity["value"] -= loss * similarity["level"].where(~similarity["control"], 0)
    folder.mkdir(parents=True)
    return store(folder, tables, config)


def twelve_runs(root):
    """As many runs as a page is made for."""
    size = [(4, 3, 2), (3, 2, 1), (4, 1, 0)]
    return [
        side_run(
            root / f"run{number:02}", size=size[number % 3], loss=0.004 * number, power=1 + 0.01 * (number % 4), **flags
        )
        for number, flags in enumerate(TWELVE)
    ]
