"""A small study whose networks are made by two Ray workers; with an address, by the machines of a cluster.

pip install "prunecca[ray]"
python study_on_ray.py
"""

import tempfile

from prunecca.study.options import Options, Size
from prunecca.study.study import Workers, execute, prepare

if __name__ == "__main__":
    options = Options.from_flags(epochs=2, rewind_epoch=1, train_images=128, images=100, dimension_images=0)
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(["digits2"], options, Size(levels=1, replicates=2, controls=0), folder)
        # A local cluster; on a running one: Workers("ray", address="auto", gpus_per_network=0.25).
        tables = execute(run, Workers("ray", count=2, threads=1))
    levels = tables["levels"]
    print(levels[["replicate", "level", "density", "test_accuracy"]].round(3).to_string(index=False))
    print(f"{len(levels)} rows, {levels['digest'].nunique()} networks")
