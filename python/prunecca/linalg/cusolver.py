"""Eigenvalues of many float64 matrices in one call of cuSOLVER, in the copy of it that torch brings along.

``cusolverDnXsyevBatched`` keeps a whole device busy where a loop over matrices does not. It is opened when it is first
needed: nothing here is linked to a library of CUDA, and where this one cannot be opened ``torch.linalg`` is left to do
the work. The workspace is handed over zeroed, without which version 11.7.1 gives wrong eigenvectors, and what comes
back is checked.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .._arrays import address_of, stream_of

# The interface version of the library for each version of CUDA that torch is built with; older ones have no such call.
_SONAMES = {"12": "libcusolver.so.11", "13": "libcusolver.so.12"}
_OLDEST = 11701  # as cusolverGetVersion counts: 11.7.1
_MOST_MATRICES = 1 << 14  # of one call: a launch has no more than 65535 blocks in a dimension
_SHARE = 0.5  # of the free memory of the device, for the matrices of one call, their workspace and the check
_TOLERANCE = 1e-10  # of the check, which is after gross mistakes; rounding is below n * 1e-15
_REAL_64 = 1  # CUDA_R_64F
_UPPER = 1  # CUBLAS_FILL_MODE_UPPER, counted by columns: the lower triangle of our rows

Address = ctypes.c_void_p
_COMMON = [
    *(Address, Address, ctypes.c_int, ctypes.c_int, ctypes.c_int64),  # handle, parameters, mode, triangle, side
    *(ctypes.c_int, Address, ctypes.c_int64, ctypes.c_int, Address, ctypes.c_int),  # matrices, values, computed in
]
_SIGNATURES = {
    "cusolverGetVersion": [ctypes.POINTER(ctypes.c_int)],
    "cusolverDnCreate": [ctypes.POINTER(Address)],
    "cusolverDnCreateParams": [ctypes.POINTER(Address)],
    "cusolverDnSetStream": [Address, Address],
    "cusolverDnXsyevBatched_bufferSize": [*_COMMON, *[ctypes.POINTER(ctypes.c_size_t)] * 2, ctypes.c_int64],
    "cusolverDnXsyevBatched": [
        *(*_COMMON, Address, ctypes.c_size_t, Address, ctypes.c_size_t),  # workspace on the device and on the host
        *(Address, ctypes.c_int64),  # what became of each, matrices
    ],
}


class Solver:
    """An opened cuSOLVER.

    Args:
        library: the loaded library.

    Raises:
        OSError: it is older than 11.7.1, or lacks a function.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        try:
            for name, types in _SIGNATURES.items():
                function = getattr(library, name)
                function.argtypes, function.restype = types, ctypes.c_int
        except AttributeError as missing:
            raise OSError(f"this cuSOLVER has no such function: {missing}") from None
        self._library = library
        self._handles = threading.local()  # a handle is for one thread and one device
        version = ctypes.c_int()
        self._call("cusolverGetVersion", ctypes.byref(version))
        if version.value < _OLDEST:
            raise OSError(f"this cuSOLVER is version {version.value}; expected at least {_OLDEST}")

    def eigh(self, matrices: Tensor, *, vectors: bool) -> tuple[Tensor, Tensor, Tensor] | None:
        """Eigenvalues, ascending, of a batch, and eigenvectors where they are wanted.

        Args:
            matrices: (count, n, n) float64, symmetric, of which the lower triangles are read.
            vectors: whether eigenvectors are wanted too.

        Returns:
            Eigenvalues (count, n), eigenvectors (count, n, n) in columns, unless none are wanted, and (count) bool: which
            matrices were solved, and came through the check. None where the device has not the memory for one matrix at a time.
        """
        count, n, _ = matrices.shape
        with _current(matrices):
            portion = self._portion(matrices, vectors)
            if not portion:
                return None
            values, good = matrices.new_empty(count, n), torch.empty(count, dtype=torch.bool, device=matrices.device)
            found = matrices.new_empty(count if vectors else 0, n, n)
            for start in range(0, count, portion):
                some = slice(start, start + portion)
                given = matrices[some]
                work = found[some].copy_(given) if vectors else given.clone(memory_format=torch.contiguous_format)
                good[some] = self._solve(work, values[some], vectors)
                good[some] &= _sums_agree(given, values[some])
                if vectors:
                    good[some] &= _is_orthonormal(work)
        # Columns of memory, where torch has rows, are the eigenvectors.
        return values, found.mT, good

    def _solve(self, work: Tensor, values: Tensor, vectors: bool) -> Tensor:
        """Overwrites the matrices; which of them were solved."""
        solved = torch.full((len(work),), -1, dtype=torch.int32, device=work.device)
        on_device, on_host = self._workspace(work, len(work), vectors)
        # Zeroed on the same stream. On the host it lives until the call has returned and the stream is through.
        workspace = torch.zeros(max(1, on_device), dtype=torch.uint8, device=work.device)
        scratch = ctypes.create_string_buffer(max(1, on_host))
        self._call("cusolverDnSetStream", self._handle(work)[0], stream_of(work))
        self._call(
            "cusolverDnXsyevBatched",
            *self._problem(work, address_of(values), vectors),
            *(address_of(workspace), on_device, ctypes.addressof(scratch), on_host, address_of(solved), len(work)),
        )
        if on_host and work.is_cuda:
            torch.cuda.current_stream(work.device).synchronize()
        return solved == 0

    def _problem(self, matrices: Tensor, values: int, vectors: bool) -> list[int | Address]:
        n = matrices.shape[-1]
        described = [_REAL_64, address_of(matrices), n, _REAL_64, values, _REAL_64]
        return [*self._handle(matrices), int(vectors), _UPPER, n, *described]

    def _workspace(self, matrices: Tensor, count: int, vectors: bool) -> tuple[int, int]:
        """Bytes on the device and on the host for so many matrices of this side."""
        on_device, on_host = ctypes.c_size_t(), ctypes.c_size_t()
        # The addresses are not read; of the matrices' that of the values will do.
        problem = self._problem(matrices, address_of(matrices), vectors)
        sizes = (ctypes.byref(on_device), ctypes.byref(on_host))
        self._call("cusolverDnXsyevBatched_bufferSize", *problem, *sizes, count)
        return on_device.value, on_host.value

    def _portion(self, matrices: Tensor, vectors: bool) -> int:
        """How many matrices one call takes: as many as the free memory of the device holds beside their workspace."""
        count = min(len(matrices), _MOST_MATRICES)
        free = _SHARE * free_bytes(matrices.device)
        while count and 3 * count * matrices[0].numel() * 8 + self._workspace(matrices, count, vectors)[0] > free:
            count //= 2
        return count

    def _handle(self, matrices: Tensor) -> tuple[Address, Address]:
        """The handle of this thread on the device of the matrices, and parameters as they are by default."""
        handles: dict[int, tuple[Address, Address]] = self._handles.__dict__.setdefault("of_device", {})
        index = matrices.get_device()
        if index not in handles:
            handle, parameters = Address(), Address()
            self._call("cusolverDnCreate", ctypes.byref(handle))
            self._call("cusolverDnCreateParams", ctypes.byref(parameters))
            handles[index] = handle, parameters
        return handles[index]

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} of cuSOLVER failed with status {status}; expected 0")


@cache
def solver() -> Solver | None:
    """The cuSOLVER that torch has; None where it cannot be opened, or is too old."""
    for library in _libraries((torch.version.cuda or "").partition(".")[0]):
        try:
            return Solver(library)
        except (OSError, RuntimeError):
            continue
    return None


def free_bytes(device: torch.device) -> int:
    """Bytes that can be allocated on a CUDA device: those free, and those that torch keeps for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _libraries(version: str) -> Iterator[ctypes.CDLL]:
    """The library of a version of CUDA: where it is loaded already, in the wheels beside torch, on the loader's path."""
    name = _SONAMES.get(version)
    if name is None:
        return
    packages = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (packages.submodule_search_locations or [])] if packages else []
    paths = [path for folder in folders for path in sorted(folder.glob(f"*/lib/{name}"))]
    paths.append(Path(torch.__file__).parent / "lib" / name)
    for place, mode in ((name, os.RTLD_NOLOAD), *((str(path), 0) for path in paths if path.is_file()), (name, 0)):
        try:
            yield ctypes.CDLL(place, mode=mode | os.RTLD_NOW)
        except OSError:
            continue


def _sums_agree(matrices: Tensor, values: Tensor) -> Tensor:
    """Whether eigenvalues have the sum and the sum of squares that their matrices have, (count) bool."""
    diagonal = matrices.diagonal(dim1=-2, dim2=-1)
    squares = 2 * matrices.tril(-1).square().sum((-2, -1)) + diagonal.square().sum(-1)
    found = values.square().sum(-1)
    # The root of it bounds the largest eigenvalue, and so what rounding makes of their sum.
    off = (values.sum(-1) - diagonal.sum(-1)).abs()
    return (off <= _TOLERANCE * squares.sqrt() * values.shape[-1]) & ((found - squares).abs() <= _TOLERANCE * squares)


def _is_orthonormal(rows: Tensor) -> Tensor:
    """Whether the rows of each matrix are unit vectors at right angles, (count) bool."""
    products = rows @ rows.mT
    products.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    return products.abs_().amax((-2, -1)) <= _TOLERANCE


def _current(tensor: Tensor) -> AbstractContextManager[None]:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
