"""What forbids the host to wait for the device."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch


def forbid(forbidden: bool = True) -> None:
    """From now on, torch raises when the host waits for the device (or no longer)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this mode a prototype, once
        torch.cuda.set_sync_debug_mode("error" if forbidden else "default")


@contextlib.contextmanager
def forbidden() -> Iterator[None]:
    """Within, torch raises when the host waits for the device."""
    forbid()
    try:
        yield
    finally:
        forbid(False)
