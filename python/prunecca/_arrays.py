"""torch, NumPy, CuPy and numba arrays, as the native code takes them. The only file that knows array frameworks.

The native code is given addresses, never framework objects: an array crosses as
``(pointer, shape, strides in elements, dtype code, device)``, device -1 being the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import _native

NativeArray = tuple[int, tuple[int, ...], tuple[int, ...], int, int]

_TORCH_CODES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.bool: 4,
    torch.int64: 5,
    torch.uint8: 6,
}


def as_tensor(x: Any, name: str = "array") -> torch.Tensor:
    """View ``x`` (torch, NumPy, CuPy, numba device array, anything with DLPack) as a detached tensor, without a copy.

    A read-only NumPy array (a memory map, say) is viewed too: the kernels never write to their inputs.
    Raises ``TypeError`` for anything else, and for dtypes other than float16, bfloat16, float32, float64.
    """
    if isinstance(x, torch.Tensor):
        tensor = x.detach()
    elif isinstance(x, np.ndarray):
        tensor = _from_numpy(x, name)
    elif hasattr(x, "__dlpack__"):  # CuPy too: DLPack names the device and orders the streams
        tensor = torch.utils.dlpack.from_dlpack(x)
    elif hasattr(x, "__cuda_array_interface__"):
        tensor = _from_cuda(x, name)
    else:
        raise TypeError(
            f"{name} is a {type(x).__name__}; expected a torch tensor, a NumPy array or memory map, or a CuPy or numba array"
        )
    if tensor.dtype not in _TORCH_CODES or not tensor.dtype.is_floating_point:
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected float16, bfloat16, float32 or float64")
    return tensor


def _from_cuda(x: Any, name: str) -> torch.Tensor:
    """A view of a device array (numba's, say), ready for use on the current stream of the device that has it."""
    interface = x.__cuda_array_interface__
    address = interface["data"][0]
    if interface.get("mask") is not None:
        raise TypeError(f"{name} is a masked array; expected one without a mask")
    index = _native.device_of(address) if address else 0  # an empty array may have no address
    if index < 0:
        raise ValueError(f"{name} has an address of no CUDA device; expected device memory, and a build with CUDA")
    # With its index: torch would copy an array of another device than the current one.
    tensor = torch.as_tensor(x, device=f"cuda:{index}")
    producer = interface.get("stream")  # from version 3 on: the stream whose work must be done before the data is read
    if producer is not None:
        _wait_for(producer, index)
    return tensor


def _wait_for(producer: int, index: int) -> None:
    """Order the current stream of device ``index`` after what is queued on ``producer`` (1: the default stream)."""
    current = torch.cuda.current_stream(index)
    if producer in (current.cuda_stream, 1 if current.cuda_stream == 0 else None):
        return
    current.wait_stream(torch.cuda.ExternalStream(producer, device=index))  # type: ignore[no-untyped-call]


def _from_numpy(x: np.ndarray[Any, Any], name: str) -> torch.Tensor:
    if x.dtype.byteorder not in "=|" or x.dtype.kind != "f" or x.dtype.itemsize > 8:
        raise TypeError(f"{name} has dtype {x.dtype}; expected float16, float32 or float64 in native byte order")
    if x.flags.writeable and all(s >= 0 for s in x.strides):
        return torch.from_numpy(x)
    if any(s < 0 for s in x.strides):
        return torch.from_numpy(np.ascontiguousarray(x))
    # torch warns about read-only memory; a writeable alias of the same memory is never written to here.
    alias = np.lib.stride_tricks.as_strided(_Writeable(x).array, x.shape, x.strides)
    return torch.from_numpy(alias)


class _Writeable:
    """The memory of a read-only array, exported as writeable; keeps the array alive."""

    def __init__(self, x: np.ndarray[Any, Any]) -> None:
        interface = dict(x.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
        self._owner = x
        self.array = np.asarray(self)


def native(tensor: torch.Tensor) -> NativeArray:
    """A tensor as the native code takes it; the caller keeps the tensor alive during the call."""
    return (
        tensor.data_ptr(),
        tuple(tensor.shape),
        tensor.stride(),
        _TORCH_CODES[tensor.dtype],
        tensor.get_device(),
    )


def stream_of(tensor: torch.Tensor) -> int:
    """The raw handle of the current CUDA stream on the tensor's device; 0 on the host."""
    return int(torch._C._cuda_getCurrentRawStream(tensor.get_device())) if tensor.is_cuda else 0
