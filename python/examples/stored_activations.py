"""Compare stored activations that need not fit in memory: .npy and safetensors files, written piece by piece.

    python stored_activations.py [FOLDER]

The same comparison from a shell: prunecca compare --activations layer.npy layer.safetensors
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import prunecca as pc

SHAPE = (2048, 32, 8, 8)  # datapoints, channels, height, width: 16 MB here, but it may be any number of gigabytes
PIECE = 256  # datapoints in memory at a time


def pieces(noise: float) -> Iterator[np.ndarray]:
    """What a network would give for one batch after the other; ``noise`` makes one network unlike another."""
    for start in range(0, SHAPE[0], PIECE):
        signal = np.random.default_rng([0, start]).normal(size=(PIECE, *SHAPE[1:]))
        own = np.random.default_rng([1, start]).normal(size=(PIECE, *SHAPE[1:]))
        yield (signal + noise * own).astype(np.float32)


def write_npy(path: Path, noise: float) -> None:
    """NumPy's format: the array grows in a memory map."""
    stored = np.lib.format.open_memmap(path, "w+", np.float32, SHAPE)
    for number, piece in enumerate(pieces(noise)):
        stored[number * PIECE : (number + 1) * PIECE] = piece
    stored.flush()


def write_safetensors(path: Path, noise: float) -> None:
    """The safetensors format: the length of a JSON header, the header, and then nothing but numbers."""
    bytes_in_all = 4 * int(np.prod(SHAPE))
    header = json.dumps({"layer": {"dtype": "F32", "shape": SHAPE, "data_offsets": [0, bytes_in_all]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for piece in pieces(noise):
            file.write(piece.tobytes())


def main(folder: Path) -> None:
    write_npy(folder / "reference.npy", noise=0.0)
    write_npy(folder / "near.npy", noise=0.5)
    write_safetensors(folder / "far.safetensors", noise=2.0)
    candidates = [folder / "near.npy", f"{folder / 'far.safetensors'}:layer"]  # ":layer" names a tensor of the file
    table = pc.compare_files(folder / "reference.npy", candidates, metrics=("svcca", "linear_cka"))
    table["candidate"] = [Path(name).name for name in table["candidate"]]
    print(table[["candidate", "metric", "value", "count", "channels"]].round(3).to_string(index=False))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
