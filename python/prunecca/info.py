"""What was built, and what this machine offers it."""

from __future__ import annotations

import platform
from typing import Any

import torch

from . import _native


def build_info() -> dict[str, Any]:
    """Versions, compiler, CUDA toolkit and architectures built, GPUs seen, CPU level in use, threads.

    Returns a flat dictionary of strings, integers and lists of strings, fit for JSON.
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
