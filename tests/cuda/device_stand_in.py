"""A plugin of pytest that lets tests for a CUDA device run on the host: what they ask of "cuda" is done by the CPU.

    pytest -p device_stand_in -m cuda

It shows that the tests are up to date with the package, since none of their own lines is left out; of a device it shows
nothing. Streams, graphs and events do what they must for a test to go on.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode


def _on_host(device: Any) -> Any:
    is_cuda = device.type == "cuda" if isinstance(device, torch.device) else str(device).startswith("cuda")
    return torch.device("cpu") if is_cuda else device


class _OnHost(TorchFunctionMode):
    """Every call of torch that names a CUDA device names the host instead."""

    def __torch_function__(self, func: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = _on_host(kwargs["device"])
        if func is torch.Tensor.cuda:
            return args[0].clone()
        if func is torch.Tensor.to:
            args = (args[0], *(_on_host(one) if isinstance(one, str | torch.device) else one for one in args[1:]))
        return func(*args, **kwargs)


class _Stream:
    cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def wait_stream(self, _: Any) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return False


@contextlib.contextmanager
def _nothing(*_: Any, **__: Any) -> Iterator[None]:
    yield


def pytest_configure(config: pytest.Config) -> None:
    import prunecca as pc

    built = pc.build_info
    pc.build_info = lambda: {**built(), "cuda": "none: a stand-in"}
    replaced = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "current_stream": lambda *_: _Stream(),
        "synchronize": lambda *_: None,
        "manual_seed_all": lambda _: None,
        "_lazy_init": lambda: None,
        "get_device_properties": lambda *_: types.SimpleNamespace(name="stand-in", shared_memory_per_block_optin=0),
        "_sleep": lambda _: None,
        "set_sync_debug_mode": lambda _: None,
        "empty_cache": lambda: None,
        "Stream": _Stream,
        "stream": _nothing,
        "graph": _nothing,
        "CUDAGraph": type("CUDAGraph", (), {"replay": lambda self: None}),
    }
    for name, value in replaced.items():
        setattr(torch.cuda, name, value)
    mode = _OnHost()
    mode.__enter__()
    config.add_cleanup(lambda: mode.__exit__(None, None, None))
