"""What the CUDA kernels should take on an H200, for when none is at hand: counted work over the rates of the chip.

    python -m benchmarks.cuda.predict [FILE] [--keep FOLDER]

Compiles the kernels for sm_90a (needs nvcc, c++filt and nvdisasm), reads the compiler's report, and counts the
instructions of their machine code: of a loop times how often it is run, of other kernels their usual way. Registers, shared
memory, occupancy and instructions are facts of the code; the time is that of the busiest of memory, L2, instruction
issue, tensor cores and shared memory. Nothing here has run on a device.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.cuda.emulated import resources

from . import sass
from .covariance import LAYERS
from .linalg import CANDIDATES
from .linalg import LAYERS as STUDY
from .work import (
    ARCHITECTURE,
    CLOCK,
    COPY,
    IMAGES,
    L2,
    MULTIPROCESSORS,
    RATES,
    SWEEPS,
    Work,
    by_cusolver,
    decompositions,
    everything,
    products,
)  # fmt: skip

RESULTS = Path(__file__).resolve().parents[1] / "results"


def as_row(work: Work, kernels: Sequence[resources.Kernel], codes: Sequence[sass.Kernel]) -> str:
    found = [k for k in kernels if k.name.startswith(work.kernel)]
    code = [c for c in codes if c.name.startswith(work.kernel)]
    if not found or not code:
        raise ValueError(f"the compiler reports no kernel that begins with '{work.kernel}'")
    kernel = found[0]
    seconds, bound = work.seconds(code[0])
    counted = ", ".join(f"{count / 1e9:.3g} G {unit}" for unit, count in work.operations.items() if count) or "few"
    instructions = work.issued(code[0])[0]
    loops = "" if work.turns is None else " + ".join(str(c.issued) for c in code[0].products()) + " a turn"
    short = re.sub(r"^void |\(.*", "", work.kernel).replace("__nv_", "").replace("__", "")
    shared = kernel.static_shared + kernel.dynamic_shared
    return (
        f"| `{short}` | {work.size} | {work.bytes / 1e6:.3g} | {counted} | {instructions / 1e6:.3g} {loops} "
        f"| {kernel.registers} | {shared / 1024:.1f} | {kernel.threads} x {kernel.blocks_per_sm} "
        f"| {100 * kernel.occupancy:.0f} % | {1e6 * seconds:.3g} | {bound} "
        f"| {100 * work.bytes / COPY / seconds:.0f} % |"
    )


def study_floor(codes: Sequence[sass.Kernel]) -> list[str]:
    """The C x C stage of SVCCA of the cifar10 network: all layers of one width in one call."""
    networks = 1 + CANDIDATES
    lines = ["| side | eigensystems and eigenvalues | where | ms, at least |", "|---:|---|---|---:|"]
    total = 0.0
    for side in sorted({c for c, _ in STUDY}):
        layers = sum(c == side for c, _ in STUDY)
        calls = ((layers * networks, True), (layers * CANDIDATES, False))  # of representations, of pairs
        if side <= 128:
            works = [list(decompositions(side, count))[0 if vectors else 1] for count, vectors in calls]
            seconds = sum(work.seconds(_code_of(work, codes))[0] for work in works)
        else:
            seconds = sum(by_cusolver(side, count, vectors)[2] for count, vectors in calls)
        total += seconds
        where = "a block each" if side <= 128 else "`cusolverDnXsyevBatched`"
        lines.append(f"| {side} | {calls[0][0]} and {calls[1][0]} | {where} | {1e3 * seconds:.3g} |")
    lines.append("")
    lines.append(
        f"That is the C x C stage of a study ({len(STUDY)} layers of cifar10, 1 + {CANDIDATES} networks, SVCCA), "
        f"{1e3 * total:.3g} ms by these rates. Above 128 it is what the algorithm must compute and read; what cuSOLVER makes "
        "of that only a device tells."
    )
    return lines


def goals(codes: Sequence[sass.Kernel]) -> list[str]:
    """What is aimed at for the covariance of every layer of the paper, beside what these times would reach."""
    lines = [
        "Held against what is aimed at, a launch of each kernel aside. Up to 128 channels: 0.8 of the bandwidth of a copy,",
        "every number read once; above: 0.6 of a third of a TF32 product's rate (wgmma, 495 TFLOP/s, of all of the square).",
        "",
        "| layer | us, at least | reaches | aimed at | |",
        "|---|---:|---:|---:|---|",
    ]
    missed = 0
    for channels, side in LAYERS:
        works = list(products(channels, side))
        seconds = sum(work.seconds(_code_of(work, codes))[0] for work in works)
        rows = (1 << 16) if side == 1 else IMAGES * side * side
        if channels <= 128:
            reached, aim = rows * channels * 4.0 / COPY / seconds, 0.8
        else:
            reached, aim = 3 * 2.0 * rows * channels**2 / 495e12 / seconds, 0.6
        missed += reached < aim
        shape = f"{channels} x {side} x {side}" if side > 1 else f"{channels}, fully connected"
        lines.append(
            f"| {shape} | {1e6 * seconds:.3g} | {reached:.2f} | {aim:g} | {'' if reached >= aim else 'missed'} |"
        )
    lines += [
        "",
        f"So {missed} of {len(LAYERS)} layers would miss it with these kernels; native.md says what would not.",
    ]
    return lines


def _code_of(work: Work, codes: Sequence[sass.Kernel]) -> sass.Kernel:
    return next(code for code in codes if code.name.startswith(work.kernel))


def report(kernels: Sequence[resources.Kernel], codes: Sequence[sass.Kernel]) -> str:
    """The page: what was counted, the table, the registers of every other kernel."""
    works = everything()
    named = {k.name for w in works for k in kernels if k.name.startswith(w.kernel)}
    others = [k for k in kernels if k.name not in named] or kernels
    lines = [
        "# The CUDA kernels on an H200, predicted",
        "",
        "Made by `benchmarks/cuda/predict.py`. **No kernel has run on a device for this page.** Bytes and operations are",
        "counted; registers, shared memory, occupancy and instructions are those of the machine code that the compiler makes",
        f"for {ARCHITECTURE}. The time is that of the busiest of these, as if nothing ever waited for another:",
        "",
        f"- memory, at {COPY / 1e12:g} TB/s (a copy as measured on an H200; 4.8 by its data sheet), and L2, at {L2 / 1e12:g} TB/s;",
        f"- issue: one instruction of a warp a cycle in each of four quarters of {MULTIPROCESSORS} SMs, at {CLOCK / 1e9:g} GHz;",
        "- shared memory: 128 bytes a cycle and SM;",
        f"- tensor cores: {RATES['TF32'] / 1e12:.0f} TFLOP/s of TF32 by `mma.sync` (0.62 of `wgmma`'s 495), 67 of float64; 34 without.",
        "",
        "Of products, the instructions are those of the loops, by turns of 16 rows (8 of float64 activations) of a warp: of a part",
        "on the diagonal, and of any other. Of sixteen-bit activations they are those where no channel is shifted. Kernels that",
        f"have no such loop are counted as if each warp went once its usual way, of whole chunks; rotations by {SWEEPS} sweeps of",
        "their loop; norms as operations alone. A launch takes about 3 us, whatever it does. Blocks are",
        "threads x blocks of a multiprocessor at once; the last column is the share of the time that memory needs.",
        "",
        "| kernel | size | MB | operations | M instructions | registers | shared, KiB | blocks | occupancy | us, at least | bound | of copy |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---|---:|",
        *(as_row(work, kernels, codes) for work in works),
        "",
        *study_floor(codes),
        "",
        *goals(codes),
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
    if not resources.has_compiler() or not sass.tool():
        print("nvcc or nvdisasm was not found; put the CUDA toolkit's programs on PATH", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        kernels = resources.report(folder, ARCHITECTURE)
        text = report(kernels, sass.read(resources.machine_code(folder, ARCHITECTURE)))
    chosen.file.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
