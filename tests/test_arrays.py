"""What the native code is given is memory that a tensor owns: everything else is refused by name, or written out first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor, Replicate, init_device_mesh
from torchvision import tv_tensors

from prunecca._arrays import as_tensor, native, resolved

SHAPE = (6, 3)


class Wrapper(torch.Tensor):
    """A tensor that only holds another one."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError("nothing may be computed from it")


class Annotated(torch.Tensor):
    """A tensor with memory, which answers nothing it is asked."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise AssertionError("it need not be asked")


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.randn(SHAPE)


def freed() -> torch.Tensor:
    """As sharded training leaves a parameter between its uses."""
    tensor = torch.randn(SHAPE)
    tensor.untyped_storage().resize_(0)
    return tensor


def distributed() -> torch.Tensor:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        return DTensor.from_local(torch.randn(SHAPE), init_device_mesh("cpu", (1,)), [Replicate()])
    finally:
        torch.distributed.destroy_process_group()


WITHOUT_MEMORY = {
    "a meta tensor": lambda: torch.empty(SHAPE, device="meta"),
    "a meta tensor, which": lambda: nn.Linear(3, 6, device="meta").weight,
    "a fake tensor": fake,
    "a tensor inside a transform": lambda: torch._to_functional_tensor(torch.randn(SHAPE)),
    "a tensor of layout torch.sparse_coo": lambda: torch.randn(SHAPE).to_sparse(),
    "a tensor of layout torch.sparse_csr": lambda: torch.randn(SHAPE).to_sparse_csr(),
    "a tensor of layout torch.sparse_bsc": lambda: torch.randn(SHAPE).to_sparse_bsc((3, 3)),
    "a nested tensor": lambda: torch.nested.nested_tensor([torch.randn(3, 3), torch.randn(2, 3)]),
    "a nested tensor;": lambda: torch.nested.nested_tensor([torch.randn(3, 3)], layout=torch.jagged),
    "a quantized tensor": lambda: torch.quantize_per_tensor(torch.randn(SHAPE), 0.1, 0, torch.qint8),
    "a tensor of layout torch._mkldnn": lambda: torch.randn(SHAPE).to_mkldnn(),
    "a masked tensor": lambda: torch.masked.masked_tensor(torch.randn(SHAPE), torch.ones(SHAPE, dtype=torch.bool)),
    "an uninitialized parameter": lambda: nn.LazyLinear(3).weight,
    "a Wrapper without memory": lambda: Wrapper(torch.randn(SHAPE)),
    "a DTensor": distributed,
    "a Tensor without memory": freed,
}


@pytest.mark.filterwarnings("ignore")  # of torch, about prototypes and what it will drop
@pytest.mark.parametrize("kind", WITHOUT_MEMORY)
@pytest.mark.parametrize("gate", [native, resolved, as_tensor])
def test_tensors_without_plain_memory_are_refused_by_name(gate, kind):
    with pytest.raises(TypeError, match=f"^weights is {kind}.*(expected|run one batch)"):
        gate(WITHOUT_MEMORY[kind](), "weights")


def test_transforms_of_torch_func_are_refused():
    with pytest.raises(TypeError, match=r"^x is a tensor inside a transform of torch.func"):
        torch.func.grad(lambda x: as_tensor(x, "x").sum())(torch.ones(3))
    with pytest.raises(TypeError, match=r"^x is a tensor inside a transform of torch.func"):
        torch.vmap(lambda x: resolved(x, "x"))(torch.ones(3, 2))


def test_empty_meta_tensors_are_refused_too():
    with pytest.raises(TypeError, match="is a meta tensor"):
        native(torch.empty(0, device="meta"))


def test_dtypes_that_no_kernel_takes_are_refused():
    with pytest.raises(TypeError, match=r"^a tensor has dtype torch.complex64; expected one of torch.float32"):
        native(torch.ones(3, dtype=torch.complex64).conj())
    for dtype in (torch.complex64, torch.int32, torch.bool, torch.float8_e4m3fn):
        with pytest.raises(TypeError, match=f"^x has dtype {dtype}; expected float16, bfloat16, float32 or float64"):
            as_tensor(torch.ones(3).to(dtype), "x")


def test_negative_views_are_written_out():
    values = torch.randn(5, 2, dtype=torch.complex64)
    view = values.conj().imag
    assert view.is_neg()
    assert torch.equal(as_tensor(view), -values.imag)
    assert native(as_tensor(view))[0] != view.data_ptr()
    with pytest.raises(ValueError, match=r"^x is a negative view, .* expected its .resolve_neg\(\)"):
        native(view, "x")


def test_subclasses_with_memory_are_what_they_hold():
    plain = torch.randn(SHAPE)
    for tensor in (nn.Parameter(plain), tv_tensors.Mask(plain), plain.as_subclass(Annotated)):
        assert native(tensor) == native(plain)
        assert type(as_tensor(tensor)) is torch.Tensor
        assert native(as_tensor(tensor)) == native(plain)


def test_torch_memory_that_is_not_aligned_is_copied():
    values = np.arange(6, dtype=np.float32)
    tensor = torch.frombuffer(bytearray(b"\0" + values.tobytes()), dtype=torch.float32, offset=1)
    taken = as_tensor(tensor)
    assert taken.data_ptr() % 4 == 0
    assert np.array_equal(taken.numpy(), values)


def packed_field() -> np.ndarray:
    records = np.zeros((7, 3), np.dtype([("flag", "u1"), ("value", "f4")]))
    records["value"] = np.arange(21).reshape(7, 3)
    return records["value"]


def from_odd_bytes(dtype: str) -> np.ndarray:
    values = np.arange(21, dtype=dtype)
    return np.frombuffer(b"\0" + values.tobytes(), dtype, offset=1).reshape(7, 3)


base = np.arange(210, dtype=np.float64).reshape(7, 10, 3)
NUMPY = {
    "flipped": base[::-1],
    "flipped in the last axis": base[:, :, ::-1],
    "flipped in every axis": base[::-1, ::-1, ::-1],
    "flipped and transposed": base.T[::-1],
    "flipped with an axis of 1": base[:, :1][:, ::-1],
    "one row, flipped": base[:1][::-1],
    "odd stride in an axis of 1": np.lib.stride_tricks.as_strided(base, (7, 1, 3), (240, 13, 8)),
    "negative odd stride in an axis of 1": np.lib.stride_tricks.as_strided(base, (7, 1, 3), (240, -13, 8)),
    "empty and flipped": base[:0][::-1],
    "empty with odd strides": np.lib.stride_tricks.as_strided(base, (0, 2, 3), (-3, 7, -8)),
    "one number, flipped": base[:1, :1, :1][::-1, ::-1, ::-1],
    "fortran": np.asfortranarray(base),
    "broadcast": np.broadcast_to(base[0], (4, 10, 3)),
    "every second, backwards": base[::-2, ::3],
    "a packed field": packed_field(),
    "float16 from odd bytes": from_odd_bytes("f2"),
    "float32 from odd bytes": from_odd_bytes("f4"),
    "float64 from odd bytes, flipped": from_odd_bytes("f8")[::-1],
    "a matrix": base[0].view(np.matrix),
    "windows": np.lib.stride_tricks.sliding_window_view(base[0], 2, axis=0),
    "no dimensions": np.array(2.5),
}


@pytest.mark.parametrize("writeable", [True, False])
@pytest.mark.parametrize("kind", NUMPY)
def test_numpy_arrays_of_any_strides_are_taken(kind, writeable):
    array = NUMPY[kind].view()
    if not writeable:
        array.flags.writeable = False
    tensor = as_tensor(array)
    assert tensor.shape == array.shape
    assert np.array_equal(tensor.numpy(), array)
    assert tensor.data_ptr() % tensor.element_size() == 0
    native(tensor)


@pytest.mark.parametrize(
    "kind", ["fortran", "broadcast", "windows", "flipped with an axis of 1", "odd stride in an axis of 1", "a matrix"]
)
def test_numpy_memory_is_shared_where_it_can_be(kind):
    array = NUMPY[kind].view()
    array.flags.writeable = False
    assert as_tensor(array).data_ptr() == array.__array_interface__["data"][0]


def test_memory_maps_are_shared(tmp_path):
    np.save(tmp_path / "x.npy", base)
    for mode in ("r", "r+", "c"):
        array = np.load(tmp_path / "x.npy", mmap_mode=mode)
        assert as_tensor(array).data_ptr() == array.ctypes.data


@pytest.mark.parametrize("dtype", [">f4", ">f8", "c8", "c16", "O", "U3", "i4", "?", "V8", "M8[s]", "longdouble"])
def test_other_dtypes_of_numpy_are_refused(dtype):
    with pytest.raises(TypeError, match=r"^x has dtype .*; expected float16, float32 or float64 in native byte order"):
        as_tensor(np.zeros((4, 3), dtype), "x")


def test_foreign_byte_order_comes_with_advice():
    with pytest.raises(TypeError, match=r"^x has dtype >f4; .* in native byte order, call .astype\('float32'\)$"):
        as_tensor(np.zeros((4, 3), ">f4"), "x")


def test_structured_arrays_are_refused():
    with pytest.raises(TypeError, match=r"^x has dtype .*'flag'.*; expected float16, float32 or float64"):
        as_tensor(np.zeros(4, [("flag", "u1"), ("value", "f4")]), "x")


@pytest.mark.parametrize("mask", [np.ma.nomask, [[True] * 3, *[[False] * 3] * 3]])
def test_masked_numpy_arrays_are_refused(mask):
    with pytest.raises(
        TypeError, match=r"^x is a masked NumPy array, and its mask would be ignored; expected an array"
    ):
        as_tensor(np.ma.masked_array(np.ones((4, 3)), mask), "x")
