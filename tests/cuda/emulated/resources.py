"""What the CUDA compiler says each kernel needs, and how many blocks of it an SM can hold."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .build import ROOT

FLAGS = ["-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", "-Xcompiler=-Wall,-Wextra", "-Werror=all-warnings", "-Xptxas=-v"]
SHARED_KIB = {"sm_80": 164, "sm_90a": 228, "sm_100": 228}  # of an SM; a block takes 1 KiB more than it asks for
# The kernels whose blocks are not of 256 threads, and those that take dynamic shared memory.
COVARIANCE_THREADS = 128
ELEMENT_BYTES = {"float": 4, "double": 8, "__half": 2, "__nv_bfloat16": 2}
PRODUCTS = re.compile(r"products<.*?Shape<(\w+), (\w+), (true|false), (\d+)>")
TILE = re.compile(r"(?:eigh|singular_values)_kernel<(\d+)>")


@dataclass(frozen=True)
class Kernel:
    """One kernel of one architecture: its name as C++, its file, and the compiler's report."""

    name: str
    file: str
    architecture: str
    registers: int
    static_shared: int
    stack: int
    spilled: int

    @property
    def threads(self) -> int:
        tile = TILE.search(self.name)
        if tile:
            return int(tile[1]) * 4
        return COVARIANCE_THREADS if PRODUCTS.search(self.name) else 1 if "advance_kernel" in self.name else 256

    @property
    def dynamic_shared(self) -> int:
        found, tile = PRODUCTS.search(self.name), TILE.search(self.name)
        if tile:
            return tile_shared(int(tile[1]))
        return products_shared(found[1], found[3] == "true", int(found[4])) if found else 0

    @property
    def blocks_per_sm(self) -> int:
        """How many blocks of it are resident at once: by registers (given out 256 to a warp), shared memory, threads."""
        warps = -(-self.threads // 32)
        by_registers = 65536 // (-(-self.registers * 32 // 256) * 256 * warps)
        shared = self.static_shared + self.dynamic_shared + 1024
        return min(by_registers, SHARED_KIB[self.architecture] * 1024 // shared, 2048 // self.threads, 32)

    @property
    def occupancy(self) -> float:
        """Share of an SM's 64 warps."""
        return self.blocks_per_sm * -(-self.threads // 32) / 64


def products_shared(element: str, row_major: bool, panel: int) -> int:
    """Bytes of dynamic shared memory of a product kernel: ``Shape::kSharedBytes`` of csrc/cuda/covariance_stage.cuh."""
    size = ELEMENT_BYTES[element]
    rows = 128 // size * (4 if panel <= 32 else 1)
    pad = 4 if size == 8 else 8 if size == 2 or row_major else 4
    elements = rows * (panel + pad) if row_major else panel * (rows + pad)
    panels, stages = 1 if panel <= 32 else 2, 3 if panel == 32 or size == 8 else 4
    return size * elements * panels * stages


def tile_shared(side: int) -> int:
    """Bytes of dynamic shared memory of a kernel of small matrices: ``sizeof(Tile<side>)`` of csrc/cuda/linalg.cu."""
    return side * (side + 8) * 8 + side * 8 + side * 4 + side * 4 // 32 * 8


def has_compiler() -> bool:
    return shutil.which("nvcc") is not None


def architectures() -> list[str]:
    """Those that a default build makes code for, as far as this nvcc knows them."""
    known = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    return [a for a in SHARED_KIB if "compute_" + a.removeprefix("sm_").removesuffix("a") in known]


def report(folder: Path, architecture: str) -> list[Kernel]:
    """Compile every file of csrc/cuda for ``architecture``, warnings being errors; kept in ``folder``."""
    files = sorted(ROOT.glob("csrc/cuda/*.cu"))
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda f: _compile(folder, f, architecture), files))
    return [k for file, text in zip(files, texts, strict=True) for k in _parse(text, file.name, architecture)]


def machine_code(folder: Path, architecture: str) -> list[Path]:
    """The compiled files that ``report`` left in ``folder``."""
    return [_kept(folder, file, architecture).with_suffix(".cubin") for file in sorted(ROOT.glob("csrc/cuda/*.cu"))]


def _kept(folder: Path, source: Path, architecture: str) -> Path:
    digest = hashlib.sha256(repr((FLAGS, architecture)).encode())
    for file in [source, *sorted(ROOT.glob("csrc/*.hpp")), *sorted(ROOT.glob("csrc/cuda/*.cuh"))]:
        digest.update(file.read_bytes())
    return folder / f"{source.stem}-{architecture}-{digest.hexdigest()[:16]}.txt"


def _compile(folder: Path, source: Path, architecture: str) -> str:
    kept = _kept(folder, source, architecture)
    if not kept.is_file():
        target = kept.with_suffix(".cubin")
        command = ["nvcc", "-cubin", f"-arch={architecture}", *FLAGS, str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{source.name} does not compile for {architecture}:\n{done.stderr[-4000:]}")
        kept.write_text(demangled(done.stderr))
    return kept.read_text()


def demangled(text: str) -> str:
    """Text with the compiler's names as C++, less the namespaces."""
    tool = shutil.which("c++filt")
    if tool is None:
        raise RuntimeError("c++filt of the binutils was not found; it turns the compiler's names into C++")
    named = subprocess.run([tool], input=text, capture_output=True, text=True, check=True).stdout
    return named.replace("prunecca::cuda::", "").replace("(anonymous namespace)::", "")


def _parse(text: str, file: str, architecture: str) -> list[Kernel]:
    kernels = []
    for part in text.split("Compiling entry function '")[1:]:
        name = part[: part.index("' for '")]
        stack, stores, loads = map(int, re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", part)[:3])
        used = part[part.index("Used ") :].splitlines()[0]
        shared = re.search(r"(\d+) bytes smem", used)
        registers = int(used.split()[1])
        kernels.append(
            Kernel(name, file, architecture, registers, int(shared[1]) if shared else 0, stack, stores + loads)
        )
    return kernels
