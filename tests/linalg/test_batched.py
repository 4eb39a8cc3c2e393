"""Batched eigenvalues and singular values: the block method on any device, and the whole on a CUDA device."""

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


@pytest.mark.parametrize(("n", "block"), [(64, 8), (37, 8), (5, 8), (96, 16), (1, 2)])
def test_eigensystems_by_blocks(n, block):
    symmetric = torch.randn(2, n, n, dtype=torch.float64)
    symmetric = symmetric + symmetric.mT
    thin = torch.randn(1, n, 2, dtype=torch.float64)
    zero_and_one = torch.stack([torch.zeros(n, n), torch.eye(n)]).double()
    for matrices in (symmetric, _covariances(3, n, 2 * n), thin @ thin.mT, zero_and_one):
        _check_eigh(matrices, *batched.eigh_by_blocks(matrices, torch.linalg.eigh, block))


@pytest.mark.parametrize(("m", "n"), [(64, 64), (37, 50), (50, 37), (3, 90), (1, 1)])
def test_singular_values_by_blocks(m, n):
    matrices = torch.randn(3, m, n, dtype=torch.float64)
    matrices[1, :, n // 2 :] = 0
    matrices[2, m // 3 :] = 0
    values = batched.svdvals_by_blocks(matrices, torch.linalg.eigh, 8)
    torch.testing.assert_close(values, torch.linalg.svdvals(matrices), rtol=0, atol=1e-13)


def test_every_two_blocks_meet_once_and_come_back():
    for blocks in (2, 4, 6, 8, 16):
        step, halves = batched._tournament(blocks, 3, torch.device("cpu"))
        seats, met = torch.arange(blocks), []
        for half in halves:
            met += [tuple(sorted(seats[k : k + 2].tolist())) for k in range(0, blocks, 2)]
            first = half[0, :, 0, 0] == 5  # the larger half stays in the first seat
            assert first.tolist() == [bool(seats[k] < seats[k + 1]) for k in range(0, blocks, 2)]
            seats = seats[step]
        assert len(set(met)) == len(met) == blocks * (blocks - 1) // 2
        assert seats.tolist() == list(range(blocks))


def test_the_host_uses_torch():
    matrices = _covariances(6, 9, 20).reshape(2, 3, 9, 9)
    values, vectors = batched.eigh_batched(matrices)
    torch.testing.assert_close(values, torch.linalg.eigh(matrices)[0])
    assert vectors.shape == matrices.shape
    torch.testing.assert_close(batched.eigvalsh_batched(matrices), values)
    torch.testing.assert_close(batched.svdvals_batched(matrices[..., :4]), torch.linalg.svdvals(matrices[..., :4]))


@pytest.mark.parametrize(("granted", "largest"), [(227 << 10, 128), (163 << 10, 128), (99 << 10, 64)])
def test_the_largest_side_in_shared_memory_is_what_the_device_grants(monkeypatch, granted, largest):
    properties = types.SimpleNamespace(shared_memory_per_block_optin=granted)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    def method(count, n):
        shape = torch.Size([count, n, n])
        return batched._method(types.SimpleNamespace(is_cuda=True, dtype=torch.float64, shape=shape, device="cuda:0"))

    assert [method(2, largest), method(4, largest + 1), method(2, largest + 1)] == ["shared", "blocks", "torch"]


@pytest.mark.cuda
def test_problems_of_the_last_device_are_solved_there():
    last = f"cuda:{torch.cuda.device_count() - 1}"
    matrices = _covariances(5, 200, 500)
    values, vectors = batched.eigh_batched(matrices.to(last))
    assert str(values.device) == last
    _check_eigh(matrices, values.cpu(), vectors.cpu())
    assert str(batched.svdvals_batched(matrices[:, :30, :60].to(last)).device) == last


@pytest.mark.cuda
@pytest.mark.parametrize("n", [1, 2, 16, 17, 33, 64, 100, 128, 129, 256, 300])
def test_eigensystems_on_the_device(n):
    matrices = _covariances(6, n, 2 * n + 1, "cuda").reshape(2, 3, n, n)
    values, vectors = batched.eigh_batched(matrices)
    _check_eigh(matrices, values, vectors)
    torch.testing.assert_close(batched.eigvalsh_batched(matrices), values, rtol=0, atol=0)


@pytest.mark.cuda
@pytest.mark.parametrize(("m", "n"), [(1, 9), (16, 16), (30, 64), (128, 100), (200, 130), (256, 256)])
def test_singular_values_on_the_device(m, n):
    matrices = torch.randn(6, m, n, dtype=torch.float64, device="cuda")
    matrices[1, :, n // 2 :] = 0
    for given in (matrices, matrices.mT, matrices[::2], matrices[:0]):
        expected = torch.linalg.svdvals(given.cpu())
        torch.testing.assert_close(batched.svdvals_batched(given).cpu(), expected, rtol=0, atol=1e-12)


@pytest.mark.cuda
def test_small_problems_neither_wait_nor_depend_on_the_stream():
    matrices = _covariances(40, 64, 200, "cuda")
    expected = batched.eigh_batched(matrices)[0]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), waiting.forbidden():
        values = batched.eigh_batched(matrices)[0]
        batched.svdvals_batched(matrices)
    stream.synchronize()
    torch.testing.assert_close(values, expected, rtol=0, atol=0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = batched.eigh_batched(matrices)[0]
    graph.replay()
    torch.testing.assert_close(captured, expected, rtol=0, atol=0)
