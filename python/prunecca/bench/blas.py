"""The calls that a knowing user makes in place of ours: ``ssyrk``, which computes half of a symmetric product.

SciPy brings one BLAS, OpenBLAS in its wheels. MKL takes part where it is installed (``pip install mkl``).
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
from collections.abc import Callable
from functools import cache

import scipy
import torch
from scipy.linalg import blas
from torch import Tensor

_ROW_MAJOR, _UPPER, _TRANSPOSED = 101, 121, 112
# Milliseconds that MKL's threads go on spinning: less than the rest before the next rival is timed.
_BLOCKTIME = "50"


def syrk_rivals(x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Calls that give the upper triangle of ``x.T @ x``, by name, of each BLAS that is there.

    Args:
        x: (N, C) float32, contiguous, on the host.

    Example:
        >>> import torch
        >>> for call in syrk_rivals(torch.ones(3, 2)).values():
        ...     assert call().triu().tolist() == [[3, 3], [0, 3]]
    """
    array = x.numpy()
    rivals: dict[str, Callable[[], Tensor]] = {
        # Of a matrix that is stored by columns, as the transpose of a row-major one is, nothing is copied. The result is,
        # too, so its transpose is a row-major view.
        f"{_blas_of_scipy()} ssyrk": lambda: torch.from_numpy(blas.ssyrk(1.0, array.T, lower=1).T),
    }
    library = _mkl()
    if library is not None:
        rivals["MKL ssyrk"] = lambda: _ssyrk_of(library, x)
    return rivals


def _ssyrk_of(library: ctypes.CDLL, x: Tensor) -> Tensor:
    rows, channels = x.shape
    out = torch.empty(channels, channels)
    library.MKL_Set_Num_Threads(torch.get_num_threads())
    one, zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
    given, result = (array.ctypes.data_as(ctypes.c_void_p) for array in (x.numpy(), out.numpy()))
    order = (_ROW_MAJOR, _UPPER, _TRANSPOSED)
    library.cblas_ssyrk(*order, channels, rows, one, given, channels, zero, result, channels)
    return out


def _blas_of_scipy() -> str:
    named = str(scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"])
    return "OpenBLAS" if "openblas" in named else f"SciPy's {named}"


@cache
def _mkl() -> ctypes.CDLL | None:
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name.startswith(("libmkl_rt.", "mkl_rt.")) and not file.name.endswith(".lib"):
            os.environ.setdefault("KMP_BLOCKTIME", _BLOCKTIME)
            return ctypes.CDLL(os.path.realpath(file.locate()))
    return None


def relative_errors(results: dict[str, Tensor], mean: Tensor, covariance: Tensor, count: int) -> dict[str, float]:
    """Of covariances made from products about zero, relative in the Frobenius norm; by name.

    Args:
        results: products ``x.T @ x`` by name; of each the upper triangle is read.
        mean: the right means, (C,) float64.
        covariance: the right covariance, (C, C) float64.
        count: rows.
    """
    found = {}
    for name, product in results.items():
        upper = product.double().triu()
        gram = upper + upper.triu(1).T
        own = (gram - count * torch.outer(mean, mean)) / (count - 1)
        found[name] = float((own - covariance).norm() / covariance.norm())
    return found
