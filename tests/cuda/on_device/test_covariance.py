"""The covariance on a real CUDA device: equal to the CPU's, repeatable, on any stream, in a graph, from any framework."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import waiting

import prunecca as pc

pytestmark = pytest.mark.cuda

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SHAPES = [
    ((64, 16, 32, 32), (64, 16, 32, 32)),
    ((33, 65, 7, 5), (33, 130, 7, 5)),
    ((700, 256), (700, 200)),
    ((3, 8, 500, 1), (3, 40, 500, 1)),
]


@pytest.fixture(scope="module")
def device():
    assert pc.build_info()["cuda"], "built without CUDA: reinstall with PRUNECCA_CUDA=ON"
    assert torch.cuda.is_available(), "torch sees no CUDA device"
    return torch.device("cuda", 0)


def pair(shape_x, shape_y, dtype=torch.float32, layout="nchw"):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape_x, generator=generator).relu() + 1
    y = torch.randn(shape_y, generator=generator) - 3
    k = min(shape_x[1], shape_y[1])
    y[:, :k] += x[:, :k]
    x, y = x.to(dtype), y.to(dtype)
    if layout == "channels_last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last), y.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        return x[1:, ::2], y[1:, 1::2]
    return x, y


def accumulate(x, y, batches=1, **options):
    acc = pc.StreamingCovariance(**options)
    for a, b in zip(x.chunk(batches), y.chunk(batches), strict=True):
        acc.update(a, b)
    return acc.finalize()


def assert_close(got, want, tolerance):
    assert got.count == want.count
    scale = {"xx": want.xx.norm(), "yy": want.yy.norm(), "xy": (want.xx.norm() * want.yy.norm()).sqrt()}
    for name, norm in scale.items():
        assert (getattr(got, name).cpu() - getattr(want, name)).norm() <= tolerance * norm, name
    torch.testing.assert_close(got.mean_x.cpu(), want.mean_x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "sliced"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", SHAPES)
def test_equals_float64_on_the_cpu(device, shapes, dtype, layout):
    x, y = pair(*shapes, dtype, layout)
    want = accumulate(x.double(), y.double())
    # The largest count is 65536 rows; float32 products differ by their rounding alone.
    assert_close(accumulate(x.to(device), y.to(device)), want, 2e-7)
    assert_close(accumulate(x.to(device), y.to(device), precision="float64"), want, 1e-12)


def test_norms_equal_the_cpu(device):
    x, y = pair((50, 20, 9, 9), (50, 33, 9, 9))
    want, got = (
        accumulate(x, y, norms=True, precision="float64"),
        accumulate(x.cuda(), y.cuda(), norms=True, precision="float64"),
    )
    torch.testing.assert_close(got.norms.cpu(), want.norms, rtol=1e-11, atol=0)


def test_same_bits_every_time(device):
    x, y = (t.to(device) for t in pair((64, 128, 16, 16), (64, 96, 16, 16)))
    first = accumulate(x, y, 3)
    for _ in range(5):
        again = accumulate(x, y, 3)
        for name in ("xx", "yy", "xy", "mean_x", "mean_y"):
            assert torch.equal(getattr(first, name), getattr(again, name)), name


def test_many_candidates_of_one_reference(device):
    x, _ = pair((40, 24, 8, 8), (40, 24, 8, 8))
    ys = [x.roll(k + 1, 0) + 0.1 * k for k in range(11)]
    on_gpu, on_cpu = pc.StreamingCovariance(), pc.StreamingCovariance()
    on_gpu.update(x.to(device), [y.to(device) for y in ys])
    on_cpu.update(x, ys)
    for got, want in zip(on_gpu.finalize(), on_cpu.finalize(), strict=True):
        assert_close(got, want, 2e-7)


def test_work_is_queued_on_the_current_stream(device):
    x, y = (t.to(device) for t in pair((64, 64, 16, 16), (64, 64, 16, 16)))
    want = accumulate(x, y)
    stream = torch.cuda.Stream()
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # the data arrive after this; work on another stream would see zeros
        late.copy_(x)
        got = accumulate(late, y)
    stream.synchronize()
    assert torch.equal(got.xx, want.xx)


def test_an_update_can_be_captured_in_a_graph(device):
    x, y = (t.to(device) for t in pair((64, 32, 16, 16), (64, 32, 16, 16)))
    batch_x, batch_y = x.clone(), y.clone()
    acc = pc.StreamingCovariance()
    acc.update(batch_x, batch_y)  # the first update makes the state
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        acc.update(batch_x, batch_y)
    others = [(x.roll(3, 0) * 1.5, y * 0.5), (x - 1, y.roll(1, 0))]
    plain = pc.StreamingCovariance()
    plain.update(x, y)
    for a, b in others:
        batch_x.copy_(a)
        batch_y.copy_(b)
        graph.replay()
        plain.update(a, b)
    # The count is the host's: capturing counted one batch, and each replay is one more.
    for _ in others[1:]:
        for member in acc._accumulator.members:
            member.count += 64 * 256
    got, want = acc.finalize(), plain.finalize()
    assert got.count == want.count
    assert torch.equal(got.xy, want.xy)


def test_no_host_synchronisation(device):
    x, y = (t.to(device) for t in pair((64, 32, 16, 16), (64, 32, 16, 16)))
    acc = pc.StreamingCovariance()
    acc.update(x, y)
    with waiting.forbidden():
        acc.update(x, y)
    assert acc.count == 2 * 64 * 256


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_names_layer_and_batch(device, bad):
    x, y = (t.to(device) for t in pair((64, 32, 16, 16), (64, 48, 16, 16)))
    acc = pc.StreamingCovariance()
    acc.update(x, y, where="conv1, batch 0")
    y[5, 41, 3, 3] = bad
    acc.update(x, y, where="conv1, batch 1")
    with pytest.raises(ValueError, match=r"conv1, batch 1: .*y, first in channel 41"):
        acc.finalize()


def test_the_last_device(device):
    last = torch.device("cuda", torch.cuda.device_count() - 1)  # another than the current one where there are several
    x, y = pair((64, 32, 16, 16), (64, 48, 16, 16))
    got = accumulate(x.to(last), y.to(last))
    assert got.xx.device == last
    assert torch.cuda.current_device() == 0
    assert_close(got, accumulate(x, y), 2e-7)


@pytest.mark.filterwarnings("ignore")  # what these packages say of themselves is theirs
@pytest.mark.parametrize("framework", ["cupy", "numba"])
def test_arrays_of_other_frameworks_are_read_in_place(device, framework):
    module = importlib.import_module("cupy" if framework == "cupy" else "numba.cuda")
    x, y = pair((64, 20, 8, 8), (64, 30, 8, 8))
    convert = module.asarray if framework == "cupy" else module.to_device
    a, b = convert(x.numpy()), convert(y.numpy())
    pointer = a.__cuda_array_interface__["data"][0]
    assert pc._arrays.as_tensor(a).data_ptr() == pointer
    got = pc.StreamingCovariance()
    got.update(a, b)
    assert_close(got.finalize(), accumulate(x, y), 2e-7)
    assert pc.svcca(a, b).mean == pytest.approx(pc.svcca(x, y).mean, abs=1e-5)
    assert pc.linear_cka(a, b) == pytest.approx(pc.linear_cka(x, y), abs=1e-6)


class _Exported:
    """Only the interface of numba and CuPy, without DLPack; on a stream, if one is given."""

    def __init__(self, tensor, stream=None):
        interface = tensor.__cuda_array_interface__
        self.__cuda_array_interface__ = interface if stream is None else {**interface, "version": 3, "stream": stream}
        self._owner = tensor


def test_an_array_of_another_device_than_the_current_one_is_read_there(device):
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    x = torch.randn(30, 4).to(last)
    seen = pc._arrays.as_tensor(_Exported(x))
    assert seen.device == last
    assert seen.data_ptr() == x.data_ptr()


def test_an_array_is_read_after_the_stream_that_makes_it(device):
    x = torch.zeros(1000, 8, device=device)
    made = torch.randn(1000, 8, device=device)
    producer = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(producer):
        torch.cuda._sleep(100_000_000)
        x.copy_(made)
    consumer = torch.cuda.Stream()
    with torch.cuda.stream(consumer):
        got = pc.StreamingCovariance()
        got.update(_Exported(x, producer.cuda_stream), made)
        found = got.finalize()
    consumer.synchronize()
    assert_close(found, accumulate(made.cpu(), made.cpu()), 2e-7)


def test_metrics_of_a_covariance_on_the_device(device):
    x, y = pair((400, 24, 6, 6), (400, 18, 6, 6))
    got, want = accumulate(x.to(device), y.to(device)), accumulate(x, y)
    assert pc.svcca(got).mean == pytest.approx(pc.svcca(want).mean, abs=1e-5)
    assert pc.linear_cka(got) == pytest.approx(pc.linear_cka(want), abs=1e-6)


def test_mixed_devices_are_refused(device):
    x, y = pair((10, 4), (10, 4))
    with pytest.raises(ValueError, match="one CUDA device"):
        pc.StreamingCovariance().update(x.to(device), y)


def test_save_and_merge(device, tmp_path):
    x, y = (t.to(device) for t in pair((64, 16, 8, 8), (64, 16, 8, 8)))
    parts = []
    for a, b in zip(x.chunk(2), y.chunk(2), strict=True):
        part = pc.StreamingCovariance()
        part.update(a, b)
        parts.append(part)
    parts[0].merge(parts[1])
    assert_close(parts[0].finalize(), accumulate(x.cpu(), y.cpu()), 2e-7)
    parts[0].save(tmp_path / "state.safetensors")
    loaded = pc.StreamingCovariance.load(tmp_path / "state.safetensors").finalize()
    np.testing.assert_array_equal(loaded.xx.numpy(), parts[0].finalize().xx.cpu().numpy())
