"""What the CUDA kernels have to do, counted: bytes, operations, turns of their loops; and what a Hopper does in a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.cuda.emulated import resources

from . import sass
from .linalg import CANDIDATES

ARCHITECTURE = "sm_90a"
MULTIPROCESSORS = 132
COPY = 4.3e12  # bytes per second, read and written: measured on an H200 (the data sheet has 4.8e12)
L2 = 5.5e12  # bytes per second that the SMs read of the L2 cache, as others have measured
L2_BYTES = 50e6
CLOCK = 1.755e9
RATES = {  # operations per second, a multiply-add being two
    "TF32": 0.62 * 495e12,  # of mma.sync, which is said to reach 0.62 of what wgmma does
    "float64 tensor": 67e12,
    "float64": 34e12,
}
ISSUE = 4 * MULTIPROCESSORS * CLOCK  # instructions of a warp per second: one a cycle in each quarter of an SM
SHARED = MULTIPROCESSORS * CLOCK  # passes of 128 bytes over shared memory per second
STEP = 16  # rows of a turn of the loops over products; 8 of float64
SWEEPS = 8  # of Jacobi rotations: 6 to 10 are usual
IMAGES = 1024


@dataclass(frozen=True)
class Work:
    """One call at a stated size.

    Attributes:
        kernel: the beginning of its compiled name.
        size: in words.
        bytes: that memory must move.
        operations: by unit of ``RATES``.
        busy: share of the multiprocessors that have a block.
        warps: that take the kernel's usual way; 0 where these are not counted.
        turns: of the loops over products: on the diagonal, and elsewhere.
        cached: bytes that come from L2.
        copied: passes over shared memory of what arrives there.
        rotated: turns of a warp through the loop over pairs of columns.
    """

    kernel: str
    size: str
    bytes: float
    operations: dict[str, float]
    busy: float = 1.0
    warps: float = 0.0
    turns: tuple[float, float] | None = None
    cached: float = 0.0
    copied: float = 0.0
    rotated: float = 0.0

    def issued(self, code: sass.Kernel) -> tuple[float, float]:
        """Instructions of all warps, and passes over shared memory."""
        if self.rotated:
            return self.rotated * code.rotations().issued, self.rotated * code.rotations().shared
        if self.turns is None:
            return self.warps * code.usual.issued, self.warps * code.usual.shared
        loops = list(zip(self.turns, code.products(), strict=True))
        return sum(n * c.issued for n, c in loops), sum(n * c.shared for n, c in loops) + self.copied

    def seconds(self, code: sass.Kernel) -> tuple[float, str]:
        """The time of what is busiest, and its name."""
        instructions, passes = self.issued(code)
        times = {"memory": self.bytes / COPY, "L2": self.cached / L2}
        times |= {"issue": instructions / ISSUE / self.busy, "shared": passes / SHARED / self.busy}
        times |= {unit: count / RATES[unit] / self.busy for unit, count in self.operations.items()}
        bound = max(times, key=lambda unit: times[unit])
        return times[bound], bound


def products(
    channels: int, side: int, element: str = "float", row_major: bool = False, wide: bool = False
) -> Iterator[Work]:
    """The two kernels of an update with one view, as csrc/cuda/covariance_plan.cuh lays it out. wide: in float64."""
    rows = (1 << 16) if side == 1 else IMAGES * side * side
    size = resources.ELEMENT_BYTES[element]
    wide = wide or element == "double"
    panel = 16 if channels <= 16 else 32 if channels <= 32 else 64
    panels = -(-channels // panel)
    tiles = panels * (panels + 1) // 2
    granule = 128 // size * (4 if panel <= 32 else 1)
    pieces = cut_rows(rows, tiles, granule)
    # Parts of a tile: on the diagonal two of their own and one other, of panels up to 32 one; four of any other tile.
    same, other = (panels, 0) if panel <= 32 else (2 * panels, panels + 4 * (tiles - panels))
    step = 8 if element == "double" else STEP
    turns = (rows / step * same, rows / step * other)
    # Products of 16 x 8 in a part; on the diagonal of 32 x 32, two of eight are left out.
    own, full = (2, 0) if panel == 16 else (6, 8)
    times = 1 if wide or size == 2 else 3
    operations = {"float64 tensor" if wide else "TF32": 1.0 * (same * own + other * full) * rows * 16 * 8 * 2 * times}
    partial = float(pieces) * tiles * (panel * panel + 64) * 8
    shape = f"{1 << 16} x {channels}" if side == 1 else f"{IMAGES} x {channels} x {side} x {side}"
    order = "true" if row_major or side == 1 else "false"
    what = f"{shape} {element.strip('_')}{' channels_last' if row_major and side > 1 else ''}"
    name = f"void products<Shape<{element}, {'double' if wide else 'float'}, {order}, {panel}>"
    blocks = min(1.0, pieces * tiles / MULTIPROCESSORS)
    read = float(rows) * panel * size * (panels + 2 * (tiles - panels))  # a tile off the diagonal reads two panels
    yield Work(
        name, what, rows * channels * size + partial, operations, blocks, turns=turns, cached=read, copied=read / 128
    )
    warps = tiles * -(-(panel * panel + 64) // 32) * 8.0
    # Its loop takes four pieces a turn, and eight warps share an entry's: each runs about its whole code once for 32.
    yield Work(
        "add_pieces", f"of {what}: {pieces} pieces, {tiles} tiles", partial, {"float64": partial / 8},
        warps=warps * max(1.0, pieces / 32),
    )  # fmt: skip


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
    warps = count / 4096 * 8  # a block of eight to a chunk
    yield Work(f"void adam_kernel<float, {table.format(5)}", size, count * 29, {}, warps=warps)
    yield Work(f"void sgd_kernel<float, {table.format(4)}", size, count * 21, {}, warps=warps)
    # With a penalty there is one address more, of the anchor, which ADMM reads and L1 leaves out.
    yield Work(f"void adam_kernel<float, {table.format(6)}", size + ", ADMM", count * 33, {}, warps=warps)
    yield Work(f"void sgd_kernel<float, {table.format(5)}", size + ", ADMM", count * 25, {}, warps=warps)
    yield Work(f"void copy_kernel<unsigned int, {table.format(3)}", size, count * 9, {}, warps=warps)
    yield Work(f"void count_kernel<{table.format(1)}", size, count, {}, warps=warps)
    # Of normal weights, 1 in 40 is open after the first digit: a key and a place, of 6 bytes.
    listed = count * 6 / 40
    yield Work("void survey_kernel<float, false>", size, count * 5, {}, warps=warps)
    yield Work("void divide_kernel<float, false>", size, count * 6 + listed, {}, warps=warps)
    yield Work("void narrow_kernel<float, false>", size, listed, {}, warps=warps / 4)
    yield Work("void finish_kernel<float, false>", size, listed, {}, warps=warps / 4)


def small() -> Iterator[Work]:
    """Launches of a thread, whose time is that of a launch: a few microseconds."""
    yield Work("advance_kernel", "one step count", 44, {})


def decompositions(side: int, count: int) -> Iterator[Work]:
    """All matrices of one side that fit shared memory, a block each."""
    tile = next(t for t in (16, 32, 64, 128) if t >= side)
    matrix = side * side * 8.0
    # A turn of two columns: three dot products (6 n) and two updates (8 n); n (n - 1) / 2 turns a sweep.
    operations = count * SWEEPS * 7.0 * side * side * (side - 1)
    waves = -(-count // MULTIPROCESSORS)
    busy = count / (waves * MULTIPROCESSORS)
    size = f"{count} x {side} x {side} float64"
    # A warp turns four pairs at once; in a round every column meets another one.
    rotated = float(count) * tile / 8 * (side - 1) * SWEEPS
    yield Work(f"void eigh_kernel<{tile}>", size, count * 2 * matrix, {"float64": operations}, busy, rotated=rotated)
    yield Work(
        f"void singular_values_kernel<{tile}>", size, count * matrix, {"float64": operations}, busy, rotated=rotated
    )


def everything() -> list[Work]:
    works: list[Work] = []
    for channels, side in ((16, 32), (32, 16), (64, 32), (128, 16), (256, 8), (512, 4), (512, 2), (256, 1), (1024, 1)):
        works += products(channels, side)
    for channels, side in ((16, 32), (64, 32), (256, 8), (512, 4)):
        works += list(products(channels, side, row_major=True))[:1]
    for channels, side in ((64, 32), (256, 8)):
        for element in ("__half", "__nv_bfloat16", "double"):
            works += list(products(channels, side, element))[:1]
        works += list(products(channels, side, wide=True))[:1]
    works += norms(64, 32)
    works += [*pruning(7_000_000), *pruning(68_000_000), *small()]
    for side in (16, 32, 64, 128):
        works += decompositions(side, 3 * (CANDIDATES + 1))
    return works


def by_cusolver(side: int, count: int, vectors: bool) -> tuple[float, float, float]:
    """What cuSOLVER's batched solver cannot do without, for matrices of a side above ``LARGEST_IN_SHARED``.

    Half of the 4/3 n^3 operations of a reduction to tridiagonal form are products with vectors, each of which reads all
    that is left of the matrix: n^3 / 3 numbers, from memory where the matrices do not fit L2. Vectors take 9 n^3 operations
    in all (Golub and Van Loan 2013, section 8.3).

    Returns:
        Operations, bytes, seconds at least.
    """
    operations = count * (9.0 if vectors else 4 / 3) * side**3
    moved = count * side**3 / 3 * 8.0
    rate = L2 if count * side * side * 8 <= L2_BYTES else COPY
    return operations, moved, max(operations / RATES["float64"], moved / rate)
