"""Builds the CUDA kernels for the host and runs them: the Python end of harness.hpp."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
ORDERS = (0, -1, 1, 2)  # how the threads of a block take turns: by rank, backwards, shuffled with this seed
FLAGS = [
    "-std=c++20", "-O1", "-g1", "-DPRUNECCA_CUDA_EMULATION", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
    f"-I{ROOT / 'csrc'}", f"-I{HERE}",
]  # fmt: skip


class EmulationError(AssertionError):
    """The emulated kernel crashed; the message is what the sanitizers or the emulation wrote."""


def compiler() -> str:
    """The C++ compiler that builds the emulation: ``$CXX``, else g++."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        raise RuntimeError("no C++ compiler was found; set CXX to one that knows -std=c++20 and -fsanitize=address")
    return found


def build(folder: Path, program: str, *flags: str) -> Path:
    """Compile ``tests/cuda/emulated/<program>.cpp`` with the sanitizers; kept in ``folder`` until a source changes."""
    digest = hashlib.sha256(repr((compiler(), FLAGS, flags)).encode())
    for source in sorted(
        [*ROOT.glob("csrc/*.hpp"), *ROOT.glob("csrc/cuda/*"), *HERE.glob("*.hpp"), HERE / f"{program}.cpp"]
    ):
        digest.update(source.read_bytes())
    target = folder / f"{program}-{digest.hexdigest()[:16]}"
    if not target.is_file():
        for old in folder.glob(f"{program}-*") if not flags else ():
            old.unlink()
        partial = target.with_suffix(f".{os.getpid()}")
        done = subprocess.run(
            [compiler(), *FLAGS, *flags, str(HERE / f"{program}.cpp"), "-o", str(partial)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{program}.cpp does not compile for the host:\n{done.stderr[:8000]}")
        partial.replace(target)
    return target


class _Server:
    """A running program; it ends when its input does, and is started anew after a crash."""

    def __init__(self, program: Path) -> None:
        environment = os.environ | {
            # Fibers have their own stacks, which the check of returned frames cannot follow.
            "ASAN_OPTIONS": "detect_stack_use_after_return=0:detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=environment
        )

    def ask(self, request: bytes, size: int) -> bytes | None:
        """The reply of ``size`` bytes; None when the program died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        reply = self.process.stdout.read(size)
        return reply if len(reply) == size else None

    def close(self) -> str:
        """The end code and what was written to standard error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        code = self.process.wait()
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace")
        self.errors.close()
        return f"{code}: {text[:4000]}"


_servers: dict[Path, _Server] = {}


@atexit.register
def close_all() -> None:
    """End the programs that are still running."""
    while _servers:
        _servers.popitem()[1].close()


def run(program: Path, scalars: Sequence[float], arrays: Sequence[np.ndarray], order: int = 0) -> list[np.ndarray]:
    """Send one request; the arrays as the kernel left them: new memory, same shapes and dtypes.

    ``order`` is how the threads of a block take turns (``ORDERS``). Raises ``EmulationError`` when the kernel
    crashes, deadlocks, reads or writes out of bounds, or its launcher returns an error code.
    """
    inputs = [np.ascontiguousarray(a) for a in arrays]
    request = [np.array([order, len(scalars)], np.int64).tobytes(), np.asarray(scalars, np.float64).tobytes()]
    request.append(np.int64(len(inputs)).tobytes())
    for a in inputs:
        request += [np.int64(a.nbytes).tobytes(), a.tobytes()]
    server = _servers.pop(program, None) or _Server(program)
    reply = server.ask(b"".join(request), sum(a.nbytes for a in inputs))
    if reply is None:
        raise EmulationError(f"{program.name} (order {order}) ended with {server.close()}")
    _servers[program] = server
    outputs, at = [], 0
    for a in inputs:
        outputs.append(np.frombuffer(reply[at : at + a.nbytes], a.dtype).reshape(a.shape).copy())
        at += a.nbytes
    return outputs
