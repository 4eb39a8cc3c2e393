"""Batched eigenvalues and singular values, on the host a thread each, on a CUDA device all at once."""

import threading
import types

import pytest
import torch
import waiting

from prunecca.linalg import batched


def _covariances(count, n, rows, device="cpu"):
    x = torch.randn(count, rows, n, dtype=torch.float64) * torch.logspace(0, -4, n, dtype=torch.float64)
    return (x.mT @ x / rows).to(device)


def _check_eigh(matrices, values, vectors):
    n = matrices.shape[-1]
    expected = torch.linalg.eigvalsh(matrices)
    size = expected.abs().amax(-1, keepdim=True).clamp_min(1e-300)
    assert ((values - expected).abs() / size).max() < 2e-14
    eye = torch.eye(n, dtype=torch.float64, device=matrices.device)
    assert (vectors.mT @ vectors - eye).abs().max() < 2e-14
    assert ((matrices @ vectors - vectors * values.unsqueeze(-2)).abs().amax(-2) / size).max() < 1e-13


def test_the_host_uses_torch():
    matrices = _covariances(6, 9, 20).reshape(2, 3, 9, 9)
    values, vectors = batched.eigh(matrices)
    torch.testing.assert_close(values, torch.linalg.eigh(matrices)[0])
    assert vectors.shape == matrices.shape
    torch.testing.assert_close(batched.eigvalsh(matrices), values)
    torch.testing.assert_close(batched.svdvals(matrices[..., :4]), torch.linalg.svdvals(matrices[..., :4]))


@pytest.mark.parametrize(("granted", "largest"), [(227 << 10, 128), (163 << 10, 128), (99 << 10, 64)])
def test_the_largest_side_in_shared_memory_is_what_the_device_grants(monkeypatch, granted, largest):
    properties = types.SimpleNamespace(shared_memory_per_block_optin=granted)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    def fits(n):
        matrices = torch.empty(2, n, n, dtype=torch.float64)
        wrapped = types.SimpleNamespace(
            is_cuda=True, dtype=matrices.dtype, shape=matrices.shape, device="cuda:0", numel=matrices.numel
        )
        return batched._fits_shared_memory(wrapped)

    assert [fits(largest), fits(largest + 1)] == [True, False]


@pytest.mark.parametrize(
    ("shape", "batch"),
    [((2, 200, 200), True), ((1, 200, 200), False), ((200, 200), False), ((0, 9, 9), False), ((3, 0, 0), False)],
)
def test_a_batch_on_a_device_is_more_than_one_matrix(shape, batch):
    def on_device(dtype):
        matrices = torch.empty(shape, dtype=dtype)
        return types.SimpleNamespace(
            is_cuda=True, dtype=dtype, ndim=matrices.ndim, shape=matrices.shape, numel=matrices.numel
        )

    assert batched._is_batch_on_device(on_device(torch.float64)) == batch
    assert not batched._is_batch_on_device(on_device(torch.float32))


def test_a_batch_on_the_host_is_solved_a_thread_each(monkeypatch):
    matrices = _covariances(4, 50, 200)
    expected = torch.linalg.eigh(matrices)
    solve, seen = torch.linalg.eigh, []

    def watched(matrix):
        seen.append((matrix.shape, torch.get_num_threads(), threading.current_thread()))
        return solve(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        values, vectors = batched.eigh(matrices.reshape(2, 2, 50, 50))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert [shape for shape, _, _ in seen] == [(50, 50)] * 4
    assert all(threads == 1 and thread is not threading.main_thread() for _, threads, thread in seen)
    torch.testing.assert_close(values.reshape(4, 50), expected[0])
    assert vectors.shape == (2, 2, 50, 50)


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 0, 0), (4, 4), (2, 3, 5, 5)])
def test_shapes_are_those_of_torch(shape):
    matrices = torch.randn(shape, dtype=torch.float64)
    matrices = matrices + matrices.mT
    for ours, theirs in zip(batched.eigh(matrices), torch.linalg.eigh(matrices), strict=True):
        assert ours.shape == theirs.shape
    torch.testing.assert_close(batched.eigvalsh(matrices), torch.linalg.eigvalsh(matrices))
    torch.testing.assert_close(batched.svdvals(matrices[..., :2]), torch.linalg.svdvals(matrices[..., :2]))


@pytest.mark.cuda
def test_problems_of_the_last_device_are_solved_there():
    last = f"cuda:{torch.cuda.device_count() - 1}"
    matrices = _covariances(5, 200, 500)
    values, vectors = batched.eigh(matrices.to(last))
    assert str(values.device) == last
    _check_eigh(matrices, values.cpu(), vectors.cpu())
    assert str(batched.svdvals(matrices[:, :30, :60].to(last)).device) == last


@pytest.mark.cuda
@pytest.mark.parametrize("n", [1, 2, 16, 17, 33, 64, 100, 128, 129, 256, 300])
def test_eigensystems_on_the_device(n):
    matrices = _covariances(6, n, 2 * n + 1, "cuda").reshape(2, 3, n, n)
    values, vectors = batched.eigh(matrices)
    _check_eigh(matrices, values, vectors)
    # Above 128, values alone are found another way than with vectors.
    atol = 0 if n <= 128 else 1e-13 * float(values.max())
    torch.testing.assert_close(batched.eigvalsh(matrices), values, rtol=0, atol=atol)


@pytest.mark.cuda
@pytest.mark.parametrize(("m", "n"), [(1, 9), (16, 16), (30, 64), (128, 100), (200, 130), (256, 256)])
def test_singular_values_on_the_device(m, n):
    matrices = torch.randn(6, m, n, dtype=torch.float64, device="cuda")
    matrices[1, :, n // 2 :] = 0
    for given in (matrices, matrices.mT, matrices[::2], matrices[:0]):
        expected = torch.linalg.svdvals(given.cpu())
        torch.testing.assert_close(batched.svdvals(given).cpu(), expected, rtol=0, atol=1e-12)


@pytest.mark.cuda
def test_small_problems_neither_wait_nor_depend_on_the_stream():
    matrices = _covariances(40, 64, 200, "cuda")
    expected = batched.eigh(matrices)[0]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), waiting.forbidden():
        values = batched.eigh(matrices)[0]
        batched.svdvals(matrices)
    stream.synchronize()
    torch.testing.assert_close(values, expected, rtol=0, atol=0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = batched.eigh(matrices)[0]
    graph.replay()
    torch.testing.assert_close(captured, expected, rtol=0, atol=0)
