"""Errors as one sentence."""

from __future__ import annotations

import torch


def sentence(error: BaseException) -> str:
    """What went wrong, in one line, for a user who wants no traceback."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "the GPU's memory is full; use a smaller --batch-size, or --device cpu"
    text = " ".join(str(error.args[0] if len(error.args) == 1 else error).split())
    known = isinstance(
        error, ValueError | FileNotFoundError | PermissionError | RuntimeError | TimeoutError | TypeError
    )
    return text if text and (known or isinstance(error, OSError)) else f"{type(error).__name__}: {text}"
