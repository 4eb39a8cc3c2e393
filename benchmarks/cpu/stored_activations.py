"""Two files of activations larger than memory, compared, with the memory of the process while it runs.

    python benchmarks/cpu/stored_activations.py FOLDER --gigabytes 10 --json benchmarks/results/stored-activations.json

Writes the files, measures how fast the disk reads them and, before and after, how fast the kernels take the same
numbers from memory, runs `prunecca compare --activations` in a process of its own, and deletes the files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from rich.progress import track

import prunecca as pc
from prunecca.machine.info import describe_machine

CHANNELS, SIDE, CHUNK = 256, 8, 256  # images of a chunk: 16 MiB
IMAGE_BYTES = 4 * CHANNELS * SIDE * SIDE


def write_pair(folder: Path, images: int) -> list[Path]:
    """Two .npy files of (images, C, H, W) float32 that share half of their signal."""
    paths = [folder / "reference.npy", folder / "candidate.npy"]
    random = np.random.default_rng(0)
    # Drawn once: what is compared changes from chunk to chunk by a factor, and drawing would take most of the time.
    shared, *own = (random.standard_normal((CHUNK, CHANNELS, SIDE, SIDE), dtype=np.float32) for _ in range(3))
    files = [np.lib.format.open_memmap(p, "w+", np.float32, (images, CHANNELS, SIDE, SIDE)) for p in paths]
    for start in track(range(0, images, CHUNK), description="writing"):
        for array, noise in zip(files, own, strict=True):
            rows = min(CHUNK, images - start)
            array[start : start + rows] = np.maximum(shared[:rows] + np.float32(0.5 + start / images) * noise[:rows], 0)
    for array in files:
        array.flush()
    return paths


def drop_from_cache(paths: list[Path]) -> None:
    for path in paths:
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(paths: list[Path], most: int = 4 << 30) -> float:
    """Bytes per second of reading the first of the files in order, in pieces of 8 MiB."""
    drop_from_cache(paths)
    buffer, done, began = bytearray(8 << 20), 0, time.perf_counter()
    with open(paths[0], "rb", buffering=0) as stream:
        while done < most and (got := stream.readinto(buffer)):
            done += got
    return done / (time.perf_counter() - began)


def kernel_rate(repeats: int = 60) -> float:
    """Bytes per second that the covariance of two such activations in memory takes."""
    x, y = (torch.randn(CHUNK, CHANNELS, SIDE, SIDE).relu_() for _ in range(2))
    accumulator = pc.StreamingCovariance()
    accumulator.update(x, y)
    began = time.perf_counter()
    for _ in range(repeats):
        accumulator.update(x, y)
    return repeats * 2 * x.nbytes / (time.perf_counter() - began)


def compare(paths: list[Path]) -> dict[str, object]:
    """Run the command line, and watch its resident memory twice a second."""
    drop_from_cache(paths)
    table = paths[0].with_name("table.csv")
    command = [sys.executable, "-m", "prunecca", "compare", "--activations", *map(str, paths), "--out", str(table)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    watched, trace = psutil.Process(process.pid), []
    while process.poll() is None:
        memory = watched.memory_full_info()
        trace.append((round(time.perf_counter() - began, 1), round(memory.rss / 1e6, 1), round(memory.uss / 1e6, 1)))
        time.sleep(0.5)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"prunecca compare failed with {process.returncode}")
    values = pd.read_csv(table).set_index("metric")["value"].to_dict()
    assert all(0 < value < 1 for value in values.values()), values
    return {"seconds": seconds, **values, "trace of seconds, resident MB, unique MB": trace}


def imported() -> float:
    """MB that a process with torch and nothing else has resident."""
    code = "import psutil, torch; print(psutil.Process().memory_info().rss / 1e6)"
    return round(float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout), 1)


def start_up() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "prunecca", "info"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the two files are written, on the disk to be measured")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of each file")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    images = int(given.gigabytes * 1e9 / IMAGE_BYTES) + 1
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        paths = write_pair(Path(name), images)
        size = sum(path.stat().st_size for path in paths)
        disk, before = disk_rate(paths), kernel_rate()
        stolen = psutil.cpu_times().steal
        result = compare(paths)
        stolen = psutil.cpu_times().steal - stolen
        kernel = (before + kernel_rate()) / 2
    seconds = float(str(result["seconds"])) - start_up()
    trace = result["trace of seconds, resident MB, unique MB"]
    assert isinstance(trace, list)
    figures = {
        "machine": describe_machine(),
        "shape": [images, CHANNELS, SIDE, SIDE],
        "bytes of both files": size,
        "disk, GB/s": disk / 1e9,
        "kernel, GB/s": kernel / 1e9,
        "compare without start-up, GB/s": size / seconds / 1e9,
        "of the slower of disk and kernel": size / seconds / min(disk, kernel),
        "stolen processor seconds": stolen,  # by the host, for the disk's work among others
        "resident MB after import of torch": imported(),
        "peak resident MB": max(resident for _, resident, _ in trace),
        "peak unique MB": max(unique for *_, unique in trace),
        **result,
    }
    print(json.dumps({name: value for name, value in figures.items() if "trace" not in name}, indent=1))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
