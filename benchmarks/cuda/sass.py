"""The machine code of compiled kernels: how many instructions of which kind, in all and in each innermost loop."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.cuda.emulated.resources import demangled

TENSOR = ("HMMA", "DMMA")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);")
_LABEL = re.compile(r"\s*(\.L_x_\d+):")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")
_ENDS = ("EXIT", "RET", "BRX")
_VECTOR = ("LDG.E.128", "STG.E.128", "LDG.E.128.CONSTANT")
_WIDTH = {"64": 2, "128": 4}  # of a shared-memory access, in passes of 32 words


@dataclass(frozen=True)
class Code:
    """Instructions that a warp issues."""

    counts: Counter[str]

    @property
    def issued(self) -> int:
        """All of them."""
        return self.counts.total()

    @property
    def tensor(self) -> int:
        """Those of the tensor cores."""
        return sum(n for name, n in self.counts.items() if name.split(".")[0] in TENSOR)

    @property
    def in_float64(self) -> int:
        """Those that compute in float64."""
        return sum(n for name, n in self.counts.items() if name.split(".")[0] in ("DADD", "DMUL", "DFMA"))

    @property
    def shared(self) -> int:
        """Passes of 128 bytes over shared memory, where lanes do not collide."""
        return sum(
            n * next((_WIDTH[part] for part in name.split(".") if part in _WIDTH), 1)
            for name, n in self.counts.items()
            if name.split(".")[0] in ("LDS", "STS", "ATOMS")
        )


@dataclass(frozen=True)
class Kernel:
    """A kernel's code, that of its innermost loops, and that of its usual way from the first instruction to the last.

    The usual way is that of whole chunks: of all ways without a turn back, one with most accesses of 16 bytes, and of
    these one of fewest instructions.
    """

    name: str
    whole: Code
    loops: tuple[Code, ...]
    usual: Code

    def products(self) -> tuple[Code, Code]:
        """The loops over full rows of tiles on the diagonal and of others; one for both where there is one.

        Of a loop and its copy for rows that are cut, which has more instructions, the first; of two ways of
        multiplying sixteen-bit numbers, that for numbers that are not shifted.
        """
        least: dict[int, Code] = {}
        for loop in self.loops:
            if loop.tensor and loop.issued < least.get(loop.tensor, self.whole).issued:
                least[loop.tensor] = loop
        chosen = [least[n] for n in sorted(least)]
        if not chosen:
            raise ValueError(f"'{self.name}' has no loop with products of tensor cores")
        return chosen[0], chosen[1] if len(chosen) > 1 else chosen[0]

    def rotations(self) -> Code:
        """The loop over pairs of columns: of the innermost loops the one with most operations in float64."""
        return max(self.loops, key=lambda loop: loop.in_float64)


def tool() -> str | None:
    """Where nvdisasm is: on PATH, or in triton, which torch brings along for CUDA."""
    found = shutil.which("nvdisasm")
    triton = None if found else find_spec("triton")
    if triton and triton.origin:
        bundled = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
        found = str(bundled) if bundled.is_file() else None
    return found


def read(files: Sequence[Path]) -> list[Kernel]:
    """The kernels of compiled files (cubin)."""
    program = tool()
    if program is None:
        raise RuntimeError(
            "nvdisasm was found neither on PATH nor in the package triton; it comes with the CUDA toolkit"
        )
    texts = [subprocess.run([program, "-c", str(f)], capture_output=True, text=True, check=True).stdout for f in files]
    return [kernel for text in texts for kernel in parse(text)]


def parse(text: str) -> list[Kernel]:
    """The kernels of what nvdisasm printed."""
    parts = [p for p in re.split(r"\n\s*\.section\s+", text) if p.startswith(".text.")]
    names = demangled(
        "\n".join(p.split()[0].removeprefix(".text.").rstrip(",").split(",")[0] for p in parts)
    ).splitlines()
    return [_kernel(name, part.splitlines()) for name, part in zip(names, parts, strict=True)]


def _kernel(name: str, lines: Sequence[str]) -> Kernel:
    labels: dict[str, int] = {}
    code: list[str] = []
    jumps: dict[int, str] = {}
    sure: set[int] = set()  # instructions without a condition
    for line in lines:
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif instruction := _INSTRUCTION.match(line):
            target = _TARGET.search(instruction[3])
            if instruction[2].startswith("BRA") and target:
                jumps[len(code)] = target[1]
            if not instruction[1]:
                sure.add(len(code))
            code.append(instruction[2])
    targets = {i: labels[label] for i, label in jumps.items() if label in labels}
    ranges = [(target, i + 1) for i, target in targets.items() if target < i]
    inner = [r for r in ranges if not any(o != r and r[0] <= o[0] and o[1] <= r[1] for o in ranges)]
    loops = tuple(Code(Counter(code[a:b])) for a, b in inner)
    return Kernel(name, Code(Counter(code)), loops, Code(Counter(_usual(code, targets, sure))))


def _usual(code: Sequence[str], targets: Mapping[int, int], sure: Container[int]) -> list[str]:
    """The instructions of the usual way; a turn back ends it where no way leads on."""
    worst = (1, 0)
    best = [worst] * (len(code) + 1)  # of the way from an instruction on: accesses of 16 bytes, negative; instructions
    after = [-1] * len(code)
    for i in range(len(code) - 1, -1, -1):
        ends = code[i].split(".")[0] in _ENDS and i in sure
        ways = [] if ends or (i in targets and i in sure) else [i + 1]
        if targets.get(i, 0) > i:
            ways.append(targets[i])
        if not ways and not ends and i not in targets:
            continue
        next_ = min((w for w in ways if best[w] != worst), key=lambda w: best[w], default=-1)
        if next_ < 0 and not ends and not targets.get(i, len(code)) < i:
            continue
        vectors, count = best[next_] if next_ >= 0 else (0, 0)
        best[i], after[i] = (vectors - (code[i] in _VECTOR), count + 1), next_
    way, at = [], 0
    while at >= 0:
        way.append(code[at])
        at = after[at]
    return way
