"""Compare two networks layer by layer: which layers did two trainings from different seeds make alike?

    python compare_two_networks.py [FOLDER]

prints a table of layers by metrics and writes it, with a picture, to FOLDER (by default the current one).
"""

import sys
from pathlib import Path

import prunecca as pc


def trained(seed: int, splits: pc.data.Splits):
    """A network of the problem, trained from its own initialisation on its own order of the images."""
    model = pc.models.build("digits4", seed=seed)
    config = pc.training.TrainingConfig.for_problem("digits4", epochs=3)
    history = pc.training.Training(model, splits, config, seed=seed).run()
    print(f"seed {seed}: test accuracy {history[-1]['test_accuracy']:.3f}")
    return model


def main(folder: Path) -> None:
    splits = pc.data.load("digits4")  # scikit-learn's digits 0 to 3, as images of 32 x 32
    one, other = trained(1, splits), trained(2, splits)
    candidates = {"other seed": other, "untrained": pc.models.build("digits4", seed=1)}

    # Any loader will do, as long as each batch is a tensor of inputs or starts with one.
    images = pc.data.representation_subset(splits.train, count=400)
    result = pc.compare(one, candidates, images, metrics=("svcca", "linear_cka"))

    table = result.table.pivot(index=["candidate", "depth", "layer"], columns="metric", values="value")
    print(table.round(3).to_string())
    result.save(folder / "similarity.csv")
    result.plot(folder / "similarity.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
