"""What the CUDA kernels should take on an H200, for when none is at hand: counted work over the rates of the chip.

    python -m benchmarks.cuda.predict [FILE] [--keep FOLDER]

Compiles the kernels for sm_90a (needs nvcc and c++filt) and reads the compiler's report. Bytes, operations, registers,
shared memory and occupancy are facts of the code; the times are the roofline's: no kernel is faster, and a good one is
not much slower. Nothing here has run on a device.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cuda.emulated import resources

from .linalg import CANDIDATES
from .linalg import LAYERS as STUDY

RESULTS = Path(__file__).resolve().parents[1] / "results"
ARCHITECTURE = "sm_90a"
MULTIPROCESSORS = 132
COPY = 4.3e12  # bytes per second, read and written: measured on an H200 (the data sheet has 4.8e12)
RATES = {  # operations per second, a multiply-add being two
    "TF32": 495e12,  # dense, of wgmma; mma.sync, which these kernels use, is said to reach about 0.6 of it
    "float64 tensor": 67e12,
    "float32": 67e12,
    "float64": 34e12,
}
SWEEPS = 8  # of Jacobi rotations: 6 to 10 are usual
IMAGES = 1024


@dataclass(frozen=True)
class Work:
    """One call at a stated size. kernel: the beginning of its compiled name. operations: by unit of ``RATES``."""

    kernel: str
    size: str
    bytes: float
    operations: dict[str, float]
    busy: float = 1.0  # share of the multiprocessors that have a block

    def seconds(self) -> tuple[float, str]:
        """What the roofline allows, and what bounds it."""
        times = {"memory": self.bytes / COPY}
        times |= {unit: count / RATES[unit] / self.busy for unit, count in self.operations.items()}
        bound = max(times, key=lambda unit: times[unit])
        return times[bound], bound


def products(channels: int, side: int, element: str = "float", row_major: bool = False) -> Iterator[Work]:
    """The two kernels of an update with one view, as csrc/cuda/covariance_plan.cuh lays it out."""
    rows = (1 << 16) if side == 1 else IMAGES * side * side
    size = resources.ELEMENT_BYTES[element]
    panel = 32 if channels <= 32 else 64
    panels = -(-channels // panel)
    tiles = panels * (panels + 1) // 2
    granule = 128 // size * (4 if panel == 32 else 1)
    splits = cut_rows(rows, tiles, granule)
    pieces = splits * (4 if panel == 32 else 1)
    # 32 x 32 parts: three of a tile on the diagonal, of which two leave out a quarter; four of any other.
    parts = 0.75 * panels if panel == 32 else 4 * (tiles - panels) + panels * (2 * 0.75 + 1)
    part_loads = panels if panel == 32 else 4 * tiles - panels
    wide = element == "double"
    unit = "float64 tensor" if wide else "TF32"
    operations = {unit: parts * rows * 32 * 32 * 2 * (1 if wide else 3)}
    if not wide:  # 64 numbers a row and part: shift, split, sum (4 instructions); and each product's sum, every 8 rows
        operations["float32"] = 2 * rows * (64 * 4 * part_loads + 32 * 32 / 8 * parts)
    partial = float(pieces) * tiles * (panel * panel + 64) * 8
    shape = f"{1 << 16} x {channels}" if side == 1 else f"{IMAGES} x {channels} x {side} x {side}"
    order = "true" if row_major or side == 1 else "false"
    what = f"{shape} {element.strip('_')}{' channels_last' if row_major and side > 1 else ''}"
    name = f"void products<Shape<{element}, {'double' if wide else 'float'}, {order}, {panel}>"
    blocks = min(1.0, splits * tiles / MULTIPROCESSORS)
    yield Work(name, what, rows * channels * size + partial, operations, blocks)
    yield Work("add_pieces", f"of {what}: {pieces} pieces, {tiles} tiles", partial, {"float64": partial / 8})


def cut_rows(rows: int, tiles: int, granule: int) -> int:
    """How many pieces ``cut_rows`` of csrc/cuda/covariance_plan.cuh makes of the rows."""
    slots, overhead = 264, 384
    best, chosen = None, 1
    for splits in range(1, max(1, min(4 * slots // tiles, rows // 256)) + 1):
        share = -(-rows // splits)
        each = -(-share // granule) * granule
        used = -(-rows // each)
        if used != splits:
            continue
        cost = -(-(used * tiles) // slots) * (each + overhead)
        if best is None or cost < best:
            best, chosen = cost, splits
    return chosen


def norms(channels: int, side: int) -> Iterator[Work]:
    """What debiased CKA adds to an update: one pass for the norms, one for the weighted sums, and their inner product."""
    rows = IMAGES * side * side
    elements = rows * channels
    size = f"{IMAGES} x {channels} x {side} x {side} float"
    yield Work("void norms_by_plane<float>", size, elements * 4 + rows * 8, {"float64": 3 * elements})
    yield Work("void norms_by_row<float>", size + " channels_last", elements * 4 + rows * 8, {"float64": 3 * elements})
    yield Work("void weigh_by_plane<float>", size, elements * 4 + rows * 8, {"float64": 3 * elements})
    yield Work("void weigh_by_row<float>", size + " channels_last", elements * 4 + rows * 8, {"float64": 3 * elements})
    yield Work("inner_products", f"{rows} rows", rows * 16, {"float64": 2 * rows})
    yield Work("add_in_order", f"512 pieces of {channels} channels", 512 * channels * 8, {"float64": 512 * channels})


def pruning(count: int) -> Iterator[Work]:
    """Masked steps, selection and masks of ``count`` float32 weights."""
    size = f"{count / 1e6:g} million float"
    table = "Table<{0}, 48>"
    yield Work(f"void adam_kernel<float, {table.format(5)}", size, count * 29, {"float32": count * 18})
    yield Work(f"void sgd_kernel<float, {table.format(4)}", size, count * 21, {"float32": count * 8})
    yield Work(f"void copy_kernel<unsigned int, {table.format(3)}", size, count * 9, {})
    yield Work(f"void count_kernel<{table.format(1)}", size, count, {})
    yield Work("void histogram_kernel<float, false>", size + ", each of 3 digits", count * 5, {})
    yield Work("void ties_kernel<float, false>", size + ", ties everywhere", count * 5, {})
    yield Work("void cut_kernel<float, false>", size, count * 6, {})


def small() -> Iterator[Work]:
    """Launches of a block or two, whose time is that of a launch: a few microseconds."""
    yield Work("advance_kernel", "one step count", 44, {})
    yield Work("survey_kernel", "2 pools", 2 * 2048 * 8, {})
    yield Work("choose_kernel", "2 pools", 2 * 2048 * 16, {})


def decompositions(side: int, count: int) -> Iterator[Work]:
    """All matrices of one side that fit shared memory, a block each."""
    tile = next(t for t in (16, 32, 64, 128) if t >= side)
    matrix = side * side * 8.0
    # A turn of two columns: three dot products (6 n) and two updates (8 n); n (n - 1) / 2 turns a sweep.
    operations = count * SWEEPS * 7.0 * side * side * (side - 1)
    waves = -(-count // MULTIPROCESSORS)
    busy = count / (waves * MULTIPROCESSORS)
    size = f"{count} x {side} x {side} float64"
    yield Work(f"void eigh_kernel<{tile}>", size, count * 2 * matrix, {"float64": operations}, busy)
    yield Work(f"void singular_values_kernel<{tile}>", size, count * matrix, {"float64": operations}, busy)


def everything() -> list[Work]:
    works: list[Work] = []
    for channels, side in ((16, 32), (32, 16), (64, 32), (128, 16), (256, 8), (512, 4), (512, 2), (256, 1), (1024, 1)):
        works += products(channels, side)
    for channels, side in ((16, 32), (64, 32), (256, 8), (512, 4)):
        works += list(products(channels, side, row_major=True))[:1]
    for element in ("__half", "__nv_bfloat16", "double"):
        works += list(products(256, 8, element))[:1]
    works += norms(64, 32)
    works += [*pruning(7_000_000), *pruning(68_000_000), *small()]
    for side in (16, 32, 64, 128):
        works += decompositions(side, 3 * (CANDIDATES + 1))
    return works


def as_row(work: Work, kernels: Sequence[resources.Kernel]) -> str:
    found = [k for k in kernels if k.name.startswith(work.kernel)]
    if not found:
        raise ValueError(f"the compiler reports no kernel that begins with '{work.kernel}'")
    kernel = found[0]
    seconds, bound = work.seconds()
    counted = ", ".join(f"{count / 1e9:.3g} G {unit}" for unit, count in work.operations.items() if count) or "few"
    short = re.sub(r"^void |\(.*", "", work.kernel).replace("__nv_", "").replace("__", "")
    shared = kernel.static_shared + kernel.dynamic_shared
    return (
        f"| `{short}` | {work.size} | {work.bytes / 1e6:.3g} | {counted} | {kernel.registers} | {shared / 1024:.1f} "
        f"| {kernel.threads} x {kernel.blocks_per_sm} | {100 * kernel.occupancy:.0f} % | {1e6 * seconds:.3g} | {bound} |"
    )


def study_floor() -> str:
    """The C x C stage of the cifar10 network as calls of the tile of 128: the least time of its rotations."""
    networks, total = 1 + CANDIDATES, 0.0
    one = SWEEPS * 7.0 * 128**3 / (RATES["float64"] / MULTIPROCESSORS)
    for channels in sorted({c for c, _ in STUDY}):
        layers = sum(c == channels for c, _ in STUDY)
        if channels <= 128:
            waves = -(-layers * networks // MULTIPROCESSORS) * (channels / 128) ** 3
        else:  # blocks of 64 columns: every two meet once a sweep, all matrices of a layer at once
            blocks = channels // 64
            waves = layers * SWEEPS * (blocks - 1) * -(-networks * blocks // 2 // MULTIPROCESSORS)
        total += 2 * waves * one
    return (
        f"The C x C stage of a study ({len(STUDY)} layers of cifar10, 1 + {CANDIDATES} networks) rotates for at least "
        f"{total:.2f} s by these rates, were every inner problem of its blocks to take {SWEEPS} sweeps; later ones take 2 or 3."
    )


def report(kernels: Sequence[resources.Kernel]) -> str:
    """The page: what was counted, the table, the registers of every other kernel."""
    works = everything()
    named = {k.name for w in works for k in kernels if k.name.startswith(w.kernel)}
    others = [k for k in kernels if k.name not in named] or kernels
    lines = [
        "# The CUDA kernels on an H200, predicted",
        "",
        "Made by `benchmarks/cuda/predict.py`. **No kernel has run on a device for this page**: bytes and operations are",
        f"counted, registers, shared memory and occupancy are the compiler's for {ARCHITECTURE}, and the time is the roofline's,",
        f"the larger of bytes over {COPY / 1e12:g} TB/s (a copy as measured on an H200; 4.8 by its data sheet) and operations over",
        "495 (TF32, dense), 67 (float32; float64 on tensor cores) and 34 (float64) TFLOP/s, on the multiprocessors that have",
        "a block. `mma.sync` reaches about 0.6 of the TF32 rate on this chip, so where TF32 is the bound, expect 1.7 times the",
        "time; a launch takes about 3 us, whatever it does. Blocks are threads x blocks of a multiprocessor at once.",
        "",
        "| kernel | size | MB | operations | registers | shared, KiB | blocks | occupancy | us, at least | bound |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---|",
        *(as_row(work, kernels) for work in works),
        "",
        study_floor(),
        "",
        f"The {len(others)} other instances (dtypes, orders, long tables) take {min(k.registers for k in others)} to "
        f"{max(k.registers for k in others)} registers; of all {len(kernels)}, {sum(k.spilled > 0 for k in kernels)} spill.",
        "",
    ]
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Predicted times of the CUDA kernels.")
    parser.add_argument("file", type=Path, nargs="?", default=RESULTS / "gpu-predicted.md")
    parser.add_argument("--keep", type=Path, help="a folder for the compiler's reports, which take minutes to make")
    chosen = parser.parse_args(given)
    if not resources.has_compiler():
        print("nvcc was not found; put the CUDA compiler on PATH", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        text = report(resources.report(folder, ARCHITECTURE))
    chosen.file.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
