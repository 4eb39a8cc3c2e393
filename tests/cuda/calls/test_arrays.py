"""Arrays of other frameworks on a device, in emulated form: host memory that says it is a device's."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch

import prunecca as pc
from prunecca import _arrays
from prunecca._arrays import as_tensor


class Exported:
    """What numba's and CuPy's arrays are to us: an owner of memory with the interface, and nothing else."""

    def __init__(self, array, stream=None, **changes):
        interface = dict(array.__array_interface__)
        interface |= {"version": 3 if stream is not None else 2, "strides": array.strides}
        if stream is not None:
            interface["stream"] = stream
        self.__cuda_array_interface__ = interface | changes
        self.owner, self.shape = array, array.shape


@pytest.fixture
def device(monkeypatch):
    """A device 3 whose memory is the host's: records what was asked of torch."""
    seen = types.SimpleNamespace(devices=[], waited=[], given_back=[], current=0, capturing=False)

    as_tensor_of_numbers = torch.as_tensor

    def as_tensor_on(x, device=None):
        if device is None:
            return as_tensor_of_numbers(x)
        seen.devices.append(device)
        interface = x.__cuda_array_interface__
        host = types.SimpleNamespace(__array_interface__={**interface, "version": 3}, kept=x)
        return torch.from_numpy(np.asarray(host))

    def current_stream(index):
        assert index == 3
        return types.SimpleNamespace(cuda_stream=seen.current, wait_stream=seen.waited.append)

    monkeypatch.setattr(torch, "as_tensor", as_tensor_on)
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)

    class External(tuple):
        def wait_stream(self, reader):
            seen.given_back.append((self, reader.cuda_stream))

    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer, device: External((pointer, device)))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: External((1, device)))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: seen.capturing)
    monkeypatch.setattr(_arrays, "_native", types.SimpleNamespace(device_of=lambda address: 3))
    return seen


@pytest.mark.parametrize("change", [lambda a: a, lambda a: a[1:, ::2], lambda a: a.transpose(0, 2, 3, 1)], ids=str)
def test_memory_is_viewed_where_it_is(device, change):
    array = change(np.arange(2 * 6 * 4 * 5, dtype=np.float32).reshape(2, 6, 4, 5))
    tensor = as_tensor(Exported(array))
    assert tensor.data_ptr() == array.__array_interface__["data"][0]
    assert tuple(tensor.shape) == array.shape
    assert tuple(s * 4 for s in tensor.stride()) == array.strides
    assert device.devices == ["cuda:3"]
    assert device.waited == []


@pytest.mark.parametrize(
    ("current", "producer", "waited"),
    [(0, None, []), (0, 1, []), (77, 77, []), (77, 1, [(1, 3)]), (0, 77, [(77, 3)]), (0, 2, [(2, 3)])],
)
def test_the_current_stream_waits_for_the_one_that_makes_the_data(device, current, producer, waited):
    device.current = current
    as_tensor(Exported(np.zeros((3, 2), np.float32), stream=producer))
    assert device.waited == waited


@pytest.mark.parametrize(
    ("current", "producer", "given_back"),
    [
        (0, None, []),
        (0, 1, []),
        (77, 77, []),
        (77, None, [((1, 3), 77)]),  # of an owner that names no stream, the default one
        (77, 1, [((1, 3), 77)]),
        (0, 77, [((77, 3), 0)]),
        (77, 2, [((2, 3), 77)]),
    ],
)
def test_the_maker_of_the_data_waits_for_us_once_the_last_view_is_gone(device, current, producer, given_back):
    device.current = current
    tensor = as_tensor(Exported(np.zeros((3, 2), np.float32), stream=producer))
    view = tensor.reshape(2, 3)[1:]
    device.current = 5  # the stream on which the data was asked for counts
    del tensor
    assert device.given_back == []
    del view
    assert device.given_back == given_back


def test_nothing_is_given_back_inside_of_a_capture(device):
    device.current, device.capturing = 77, True
    as_tensor(Exported(np.zeros((3, 2), np.float32), stream=2))
    assert device.given_back == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stream", [None, 2])
def test_what_comes_through_dlpack_is_given_back_too(device, dtype, stream, monkeypatch):
    class OnDevice(torch.Tensor):
        """A tensor of the host that says of itself what one of a device would."""

        @property
        def __cuda_array_interface__(self):
            plain = self.as_subclass(torch.Tensor).numpy()
            return {**plain.__array_interface__, "version": 3, "strides": plain.strides}

        def get_device(self):
            return 3

    owner = torch.randn(4, 6).to(dtype)[:, ::2]
    source = types.SimpleNamespace(__cuda_array_interface__={"stream": stream})
    device.current = 77
    lent = _arrays._lent(owner.as_subclass(OnDevice), source)
    assert (lent.data_ptr(), lent.stride(), lent.dtype) == (owner.data_ptr(), owner.stride(), dtype)
    assert torch.equal(lent, owner)
    assert device.given_back == []
    del lent
    assert device.given_back == [((stream or 1, 3), 77)]


def test_metrics_and_accumulators_take_them_in_place(device):
    x, y = (np.random.default_rng(k).standard_normal((300, 5)).astype(np.float32) for k in (0, 1))
    assert pc.svcca(Exported(x), Exported(y)).mean == pc.svcca(x, y).mean
    accumulators = [pc.StreamingCovariance(), pc.StreamingCovariance()]
    accumulators[0].update(Exported(x), Exported(y))
    accumulators[1].update(x, y)
    assert torch.equal(*(a.finalize().xy for a in accumulators))


def test_dlpack_goes_first(device):
    tensor = torch.randn(4, 3)

    class Both:
        __cuda_array_interface__ = None
        __dlpack__ = staticmethod(tensor.__dlpack__)
        __dlpack_device__ = staticmethod(tensor.__dlpack_device__)

    assert as_tensor(Both()).data_ptr() == tensor.data_ptr()
    assert device.devices == []


def test_what_cannot_be_taken_is_one_sentence(device, monkeypatch):
    array = np.zeros((3, 2), np.float32)
    with pytest.raises(TypeError, match="x is a masked array"):
        as_tensor(Exported(array, mask=Exported(array)), "x")
    with pytest.raises(TypeError, match=r"x has dtype torch\.int32"):
        as_tensor(Exported(array.astype(np.int32)), "x")
    monkeypatch.setattr(_arrays, "_native", types.SimpleNamespace(device_of=lambda address: -1))
    with pytest.raises(ValueError, match="x has an address of no CUDA device"):
        as_tensor(Exported(array), "x")


def test_an_address_of_the_host_belongs_to_no_device():
    assert _arrays._native.device_of(np.zeros(3).ctypes.data) == -1
