"""What was built, and what this machine offers it."""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np
import torch

from .. import _native
from ..errors import ConfigurationError


def build_info() -> dict[str, Any]:
    """Versions, compiler, CUDA toolkit and architectures built, GPUs seen, CPU level in use, threads.

    Returns:
        A flat dictionary of strings, integers and lists of strings, fit for JSON.

    Example:
        >>> import prunecca as pc
        >>> pc.build_info()["version"] == pc.__version__
        True
    """
    info: dict[str, Any] = dict(_native.build_info())
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    info.update(
        python=platform.python_version(),
        torch=torch.__version__,
        torch_cuda=torch.version.cuda or "",
        gpus=gpus,
        threads=torch.get_num_threads(),
        machine=platform.machine(),
    )
    return info


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, SIMD level, threads and versions, fit for JSON."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    build = _native.build_info()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "cpu_level": build["cpu_level"],
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "compiler": build["compiler"],
        "prunecca": build["version"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def choose_device(name: str, worker: int | None = None) -> str:
    """The torch device of that name; ``auto`` is a GPU where there is one.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        worker: the number of a worker: where no GPU is named, workers go round the GPUs of the machine. None: under
            torchrun that of the local rank, otherwise the first.

    Raises:
        ConfigurationError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return name
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count()
    if kind != "cuda" or not (index.isdecimal() or not index) or int(index or 0) >= count:
        raise ConfigurationError(f"device is {name!r}; expected auto, cpu or cuda:N, and {count} GPUs are seen here")
    return f"cuda:{int(index or (os.environ.get('LOCAL_RANK', '0') if worker is None else worker)) % count}"


def cpu_level() -> str:
    """The SIMD level of the CPU kernels in use.

    Returns:
        ``"baseline"``, ``"avx2"``, ``"avx512"`` or ``"amx"``.

    Example:
        >>> import prunecca as pc
        >>> pc.cpu_level() in ("baseline", "avx2", "avx512", "amx")
        True
    """
    return str(_native.build_info()["cpu_level"])


def set_cpu_level(name: str) -> None:
    """Force a SIMD level, as the variable ``PRUNECCA_CPU_LEVEL`` does.

    Args:
        name: ``"baseline"``, ``"avx2"``, ``"avx512"`` or ``"amx"``. ``"amx_emulated"`` is for tests: it computes what
            ``"amx"`` does on any machine, slowly.

    Raises:
        ValueError: the machine lacks it.

    Example:
        >>> import prunecca as pc
        >>> best = pc.cpu_level()
        >>> pc.set_cpu_level("baseline")
        >>> pc.cpu_level()
        'baseline'
        >>> pc.set_cpu_level(best)
    """
    _native.set_cpu_level(name)
