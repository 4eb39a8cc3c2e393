"""torch, NumPy, CuPy and numba arrays, as the native code takes them. The only file that knows array frameworks.

The native code is given addresses, never framework objects: an array crosses as
``(pointer, shape, strides in elements, dtype code, device)``, device -1 being the host. ``native`` is the only maker of
such a tuple, and refuses every tensor that does not own plain memory (meta, fake, sparse, nested, ...). ``resolved`` is
the same gate for whoever knows what the tensor is called, and copies what only has to be written out.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import Parameter, is_lazy

from . import _native

if TYPE_CHECKING:
    from ._native import Array

_TORCH_CODES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.bool: 4,
    torch.int64: 5,
    torch.uint8: 6,
}


def as_tensor(x: Any, name: str = "array") -> Tensor:
    """View ``x`` (torch, NumPy, CuPy, numba device array, anything with DLPack) as a detached tensor, without a copy.

    A read-only NumPy array (a memory map, say) is viewed too: the kernels never write to their inputs.
    Raises ``TypeError`` for anything else, and for dtypes other than float16, bfloat16, float32, float64.
    """
    if isinstance(x, Tensor):
        tensor = resolved(x, name).detach()
    elif isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked NumPy array, and its mask would be ignored; expected an array without, leave the masked rows out"
        )
    elif isinstance(x, np.ndarray):
        tensor = _from_numpy(x, name)
    elif hasattr(x, "__dlpack__"):  # CuPy too: DLPack names the device and orders the streams
        tensor = torch.utils.dlpack.from_dlpack(x)
        tensor = resolved(_lent(tensor, x) if tensor.is_cuda and tensor.numel() else tensor, name)
    elif hasattr(x, "__cuda_array_interface__"):
        tensor = resolved(_from_cuda(x, name), name)
    else:
        raise TypeError(
            f"{name} is a {type(x).__name__}; expected a torch tensor, a NumPy array or memory map, or a CuPy or numba array"
        )
    if tensor.dtype not in _TORCH_CODES or not tensor.dtype.is_floating_point:
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected float16, bfloat16, float32 or float64")
    return tensor


def _from_cuda(x: Any, name: str) -> Tensor:
    """A view of a device array (numba's, say), ready for use on the current stream of the device that has it."""
    interface = x.__cuda_array_interface__
    address = interface["data"][0]
    if interface.get("mask") is not None:
        raise TypeError(f"{name} is a masked array; expected one without a mask")
    index = _native.device_of(address) if address else 0  # an empty array may have no address
    if index < 0:
        raise ValueError(f"{name} has an address of no CUDA device; expected device memory, and a build with CUDA")
    producer = interface.get("stream")  # from version 3 on: the stream whose work must be done before the data is read
    loan = _Loan(interface, x)
    # With its index: torch would copy an array of another device than the current one.
    tensor = torch.as_tensor(loan, device=f"cuda:{index}")
    if producer is not None:
        _wait_for(producer, index)
    if address:
        loan.give_back_to(producer, index)
    return tensor


def _lent(tensor: Tensor, x: Any) -> Tensor:
    """A tensor that came through DLPack, which has ordered our stream after its producer's, but not the other way."""
    interface = getattr(x, "__cuda_array_interface__", None) or {}
    # The interface knows no bfloat16.
    words = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    loan = _Loan(words.__cuda_array_interface__, tensor)
    lent: Tensor = torch.as_tensor(loan, device=tensor.device)
    loan.give_back_to(interface.get("stream"), tensor.get_device())
    return lent.view(tensor.dtype)


class _Loan:
    """The memory of an array of another framework, which torch keeps as long as any tensor is in it.

    Its owner may write to it, or hand it out anew, on the stream that made it: when the last tensor is gone, that stream
    is made to wait for what was queued on ours.
    """

    def __init__(self, interface: dict[str, Any], owner: Any) -> None:
        self.__cuda_array_interface__ = interface
        self._owner = owner

    def give_back_to(self, producer: int | None, index: int) -> None:
        """Name the stream that made the data: 1, or None where it is not known, is the default one."""
        weakref.finalize(self, _let_wait, producer or 1, torch.cuda.current_stream(index), index).atexit = False


def _let_wait(producer: int, reader: Any, index: int) -> None:
    """Order what comes next on ``producer`` after what is queued on ``reader``, a stream of device ``index``."""
    # Both the default stream, or both one other: in order already. A graph that is captured is ordered by its replay.
    if producer == (reader.cuda_stream or 1) or torch.cuda.is_current_stream_capturing():
        return
    owner = torch.cuda.default_stream(index) if producer == 1 else _external(producer, index)
    owner.wait_stream(reader)


def _wait_for(producer: int, index: int) -> None:
    """Order the current stream of device ``index`` after what is queued on ``producer`` (1: the default stream)."""
    current = torch.cuda.current_stream(index)
    if producer == (current.cuda_stream or 1):
        return
    current.wait_stream(_external(producer, index))


def _external(stream: int, index: int) -> Any:
    return torch.cuda.ExternalStream(stream, device=index)  # type: ignore[no-untyped-call]  # torch leaves it unannotated


def _from_numpy(x: np.ndarray[Any, Any], name: str) -> Tensor:
    if x.dtype.byteorder not in "=|" or x.dtype.kind != "f" or x.dtype.itemsize > 8:
        advice = "" if x.dtype.isnative else f", call .astype({x.dtype.newbyteorder('=').name!r})"
        raise TypeError(
            f"{name} has dtype {x.dtype}; expected float16, float32 or float64 in native byte order{advice}"
        )
    # Strides that lead nowhere may be anything, and torch refuses some of them.
    strides = tuple(s if n > 1 and x.size else x.itemsize for n, s in zip(x.shape, x.strides, strict=True))
    if not x.flags.aligned or any(stride < 0 or stride % x.itemsize for stride in strides):
        return torch.from_numpy(np.array(x, order="C"))  # flipped, a field of packed records, bytes at an odd place
    if not x.flags.writeable or strides != x.strides:
        # torch warns about read-only memory; a writeable alias of the same memory is never written to here.
        x = _Alias(x, strides).array
    return torch.from_numpy(x)


class _Alias:
    """The memory of an array, exported as writeable and with other strides; keeps the array alive."""

    def __init__(self, x: np.ndarray[Any, Any], strides: tuple[int, ...]) -> None:
        interface = dict(x.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        interface["strides"] = strides
        self.__array_interface__ = interface
        self._owner = x
        self.array = np.asarray(self)


def native(tensor: Tensor, name: str = "a tensor") -> Array:
    """A tensor as the native code takes it; the caller keeps the tensor alive during the call.

    Raises:
        TypeError: it has no plain memory of its own (meta, fake, sparse, nested, quantized, wrapped, ...), or a dtype
            that no kernel takes.
        ValueError: its values are not what its memory holds (a negative view).
    """
    kind = type(tensor)
    # Whatever is wrong with a plain tensor shows in what is read below; other classes may answer as they like.
    if kind is not Tensor and kind is not Parameter:
        if _why_not(tensor):
            raise _refusal(tensor, name)
        tensor = _as_plain(tensor)
    try:
        address, shape, strides = tensor.data_ptr(), tensor.shape, tensor.stride()
    except RuntimeError:  # sparse, mkldnn, nested and functorch's: they have no pointer, or no shape
        raise _refusal(tensor, name) from None
    code, device = _TORCH_CODES.get(tensor.dtype), tensor.get_device()
    if code is None or not address or (device >= 0 and not tensor.is_cuda) or tensor.is_neg():
        nothing_to_read = code is not None and not tensor.numel() and not tensor.is_meta
        if not nothing_to_read:
            raise _refusal(tensor, name)
    made: Any = (address, shape, strides, code, device)
    array: Array = made
    return array


def address_of(tensor: Tensor) -> int:
    """Where a tensor lies, for a library that is not ours; the caller made the tensor, and keeps it alive.

    Raises:
        TypeError: it has no plain memory of its own.
    """
    if type(tensor) is not Tensor or _why_not(tensor):
        raise _refusal(tensor, "a tensor")
    return tensor.data_ptr()


def resolved(tensor: Any, name: str) -> Tensor:
    """``tensor`` where it owns plain memory, or a copy that does.

    Args:
        tensor: a tensor of any class, layout and dtype.
        name: what the error calls it.

    Returns:
        The tensor itself, without its subclass; a copy of a negative or conjugate view, or of memory that is not aligned.

    Raises:
        TypeError: it is no tensor, or has no plain memory of its own.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; expected a torch tensor")
    if _is_plain(tensor):  # nearly always
        return tensor
    if _why_not(tensor):
        raise _refusal(tensor, name)
    plain: Tensor = _as_plain(tensor).resolve_conj().resolve_neg()
    return plain.clone() if plain.data_ptr() % plain.element_size() else plain


def _is_plain(tensor: Tensor) -> bool:
    """A quick look that knows most of the tensors that need nothing, of a dtype that a kernel takes."""
    if (type(tensor) is not Tensor and type(tensor) is not Parameter) or tensor.dtype not in _TORCH_CODES:
        return False
    try:
        address = tensor.data_ptr()
    except RuntimeError:
        return False
    aligned = address and address % _WIDEST == 0
    return bool(aligned and (tensor.is_cpu or tensor.is_cuda) and not tensor.is_nested and not tensor.is_neg())


def _as_plain(tensor: Tensor) -> Tensor:
    if type(tensor) in (Tensor, Parameter):
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


def memory_of(tensor: Tensor) -> Hashable:
    """What tensors of the same entries in the same memory have in common; of one without plain memory, itself."""
    if not tensor.numel() or not _is_plain(tensor):
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def same_memory(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors begin at the same address."""
    return first.data_ptr() == second.data_ptr()


_WIDEST = 8  # bytes of an entry, of all dtypes
_ASK = "expected a dense tensor with memory of its own on the CPU or a CUDA device"
# By name, so that nothing is imported for it.
_WRAPPERS = {
    "FakeTensor": "a fake tensor, which has no memory",
    "FunctionalTensor": "a tensor inside a trace, where it has no memory",
    "MaskedTensor": "a masked tensor, whose mask would be ignored",
    "DTensor": "a DTensor, whose parts lie on several ranks",
}


def _why_not(tensor: Tensor) -> str:
    """What makes a tensor one without plain memory, and what to do about it; nothing for all others."""
    with torch._C.DisableTorchFunctionSubclass():  # a subclass may refuse even to be asked
        if is_lazy(tensor):
            return "an uninitialized parameter of a lazy module; run one batch through the module first"
        if tensor.is_nested:
            return f"a nested tensor; {_ASK}, such as torch.nested.to_padded_tensor gives"
        known = _WRAPPERS.get(type(tensor).__name__)
        if known:
            return f"{known}; {_ASK}"
        if tensor.is_meta:
            return f"a meta tensor, which has no memory; {_ASK}"
        if tensor.is_quantized:
            return f"a quantized tensor; {_ASK}, call .dequantize()"
        if tensor.layout is not torch.strided:
            return f"a tensor of layout {tensor.layout}; {_ASK}, call .to_dense()"
        if not (tensor.is_cpu or tensor.is_cuda):
            return f"a tensor on device {tensor.device}; {_ASK}"
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor) or torch._is_functional_tensor(tensor):
            return f"a tensor inside a transform of torch.func or a trace, where it has no memory; {_ASK}"
        if not _has_memory(tensor):
            return f"a {type(tensor).__name__} without memory of its own; {_ASK}"
    return ""


def _has_memory(tensor: Tensor) -> bool:
    try:
        return bool(tensor.untyped_storage().data_ptr()) or not tensor.numel()
    except RuntimeError:  # of a subclass that wraps other tensors
        return False


def _refusal(tensor: Tensor, name: str) -> Exception:
    why = _why_not(tensor)
    if why:
        return TypeError(f"{name} is {why}")
    if tensor.is_neg():
        return ValueError(f"{name} is a negative view, whose memory holds other values; expected its .resolve_neg()")
    return TypeError(f"{name} has dtype {tensor.dtype}; expected one of {', '.join(map(str, _TORCH_CODES))}")


def stream_of(tensor: Tensor) -> int:
    """The raw handle of the current CUDA stream on the tensor's device; 0 on the host."""
    return int(torch._C._cuda_getCurrentRawStream(tensor.get_device())) if tensor.is_cuda else 0
