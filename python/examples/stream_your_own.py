"""Compare activations from any source: a stream of batches, shared out among workers, without a network in sight.

    python stream_your_own.py [FOLDER]

Two workers each see half of the batches and save their state; the states are merged, and metrics read from the sum.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import prunecca as pc

BATCHES, ROWS = 20, 1000


def batches(worker: int, workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two recordings of the same datapoints: 24 channels, and 16 channels that share 8 signals with them."""
    mixing = np.random.default_rng(0)
    to_x, to_y = mixing.normal(size=(12, 24)), mixing.normal(size=(12, 16))
    for number in range(worker, BATCHES, workers):
        random = np.random.default_rng([1, number])
        shared, own_x, own_y = (random.normal(size=(ROWS, n)) for n in (8, 4, 4))
        x = np.hstack([shared, own_x]) @ to_x
        y = np.hstack([shared, own_y]) @ to_y
        yield x.astype(np.float32), y.astype(np.float32)


def work(worker: int, workers: int, path: Path) -> None:
    """What each process, machine or job of an array would do."""
    state = pc.StreamingCovariance()
    for x, y in batches(worker, workers):
        state.update(x, y)
    state.save(path)  # a few matrices of channels by channels, however many rows there were


def main(folder: Path) -> None:
    paths = [folder / f"worker-{worker}.safetensors" for worker in range(2)]
    for worker, path in enumerate(paths):
        work(worker, len(paths), path)

    total = pc.StreamingCovariance.load(paths[0])
    total.merge(pc.StreamingCovariance.load(paths[1]))
    covariance = total.finalize()
    covariance.save(folder / "covariance.safetensors")

    result = pc.cca(covariance)
    shared = int((result.correlations > 0.5).sum())
    print(f"datapoints: {covariance.count}")
    print(f"directions: {result.kept_x} and {result.kept_y}, shared: {shared}")
    print(f"mean CCA {result.mean:.3f}, linear CKA {pc.linear_cka(covariance):.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
