"""The way to cuSOLVER, walked on the host with a library in its place, against LAPACK."""

from __future__ import annotations

import ctypes
import os
import subprocess

import pytest
import torch

from prunecca.linalg import batched, cusolver

from .build import HERE

NOTHING, STATUS, UNSOLVED, WRONG_VECTORS, WRONG_VALUES = range(5)


def _build(folder, name, *flags):
    target = folder / name
    # Not the compiler of the emulation, whose place nvcc takes where kernels are checked on a device.
    compiler = os.environ.get("CC", "cc")
    source = str(HERE / "cusolver.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", *flags, source, "-o", str(target), "-lm"], check=True)
    return ctypes.CDLL(str(target), mode=os.RTLD_LOCAL)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return _build(tmp_path_factory.mktemp("cusolver"), "libcusolver.so.12")


@pytest.fixture
def library(built, monkeypatch):
    """The library in place of cuSOLVER; batches on the host count as ones on a device, with a gigabyte free."""
    for name, value in {"calls": 0, "largest_batch": 0, "dirty": 0, "with_vectors": 0}.items():
        ctypes.c_int64.in_dll(built, name).value = value
    _plant(built, NOTHING)
    solver = cusolver.Solver(built)
    monkeypatch.setattr(cusolver, "solver", lambda: solver)
    monkeypatch.setattr(cusolver, "free_bytes", lambda _: 1 << 30)
    monkeypatch.setattr(batched, "_is_batch_on_device", lambda matrices: matrices.ndim > 2)
    monkeypatch.setattr(batched, "_is_batch_on_host", lambda matrices: False)
    return built


def _plant(library, fault):
    ctypes.c_int.in_dll(library, "planted").value = fault


def _count(library, name):
    return ctypes.c_int64.in_dll(library, name).value


def _covariances(count, n):
    x = torch.randn(count, 2 * n, n, dtype=torch.float64) * torch.logspace(0, -4, n, dtype=torch.float64)
    return x.mT @ x / (2 * n)


def _check(matrices, values, vectors):
    expected = torch.linalg.eigvalsh(matrices)
    scale = expected.abs().amax(-1, keepdim=True)
    assert ((values - expected).abs() <= 1e-14 * scale).all()
    eye = torch.eye(matrices.shape[-1], dtype=torch.float64).expand_as(matrices)
    torch.testing.assert_close(vectors.mT @ vectors, eye, rtol=0, atol=1e-13)
    residual = (matrices @ vectors - vectors * values.unsqueeze(-2)).abs().amax((-2, -1))
    assert (residual <= 1e-13 * scale.squeeze(-1)).all()


@pytest.mark.parametrize("shape", [(3,), (2, 2)])
@pytest.mark.parametrize("n", [2, 17, 40])
def test_a_batch_is_one_call_on_a_clean_workspace(library, n, shape):
    matrices = _covariances(4, n)[: 3 if shape == (3,) else 4].reshape(*shape, n, n)
    _check(matrices, *batched.eigh(matrices))
    torch.testing.assert_close(batched.eigvalsh(matrices), torch.linalg.eigvalsh(matrices), rtol=0, atol=1e-12)
    assert [_count(library, name) for name in ("calls", "with_vectors", "dirty")] == [2, 1, 0]
    assert _count(library, "largest_batch") == matrices.flatten(0, -3).shape[0]


def test_only_lower_triangles_are_read_and_nothing_is_written_to(library):
    matrices = _covariances(3, 9)
    given = matrices.tril() + torch.full_like(matrices, torch.nan).triu(1)
    before = given.clone()
    _check(matrices, *batched.eigh(given))
    batched.eigvalsh(given)
    torch.testing.assert_close(given, before, rtol=0, atol=0, equal_nan=True)
    strided = torch.stack([matrices, matrices], dim=-1)[..., 0]
    _check(matrices, *batched.eigh(strided))


@pytest.mark.parametrize(("rows", "columns"), [(1, 9), (12, 12), (20, 7), (7, 20)])
def test_singular_values_lose_no_digits(library, rows, columns):
    matrices = torch.randn(3, rows, columns, dtype=torch.float64) * torch.logspace(0, -12, columns, dtype=torch.float64)
    matrices[1, :, columns // 2 :] = 0
    expected = torch.linalg.svdvals(matrices)
    torch.testing.assert_close(batched.svdvals(matrices), expected, rtol=0, atol=2e-14 * float(expected.max()))
    assert [_count(library, name) for name in ("calls", "with_vectors")] == [1, 0]


@pytest.mark.parametrize("fault", [UNSOLVED, WRONG_VECTORS, WRONG_VALUES])
def test_what_comes_back_wrong_is_solved_by_torch(library, fault):
    matrices = _covariances(3, 12)
    _plant(library, fault)
    _check(matrices, *batched.eigh(matrices))
    torch.testing.assert_close(batched.eigvalsh(matrices), torch.linalg.eigvalsh(matrices), rtol=0, atol=1e-13)
    torch.testing.assert_close(batched.svdvals(matrices), torch.linalg.svdvals(matrices), rtol=0, atol=1e-13)


def test_rounding_is_no_mistake(library, monkeypatch):
    monkeypatch.setattr(torch.linalg, "eigh", lambda _: pytest.fail("torch was asked to solve again"))
    n = 33
    thin = torch.randn(n, 2, dtype=torch.float64)
    near = torch.randn(n, n, dtype=torch.float64)
    traceless = near + near.mT
    traceless.diagonal().zero_()
    eye = torch.eye(n, dtype=torch.float64)
    matrices = torch.stack([torch.zeros_like(eye), eye, -3 * eye, thin @ thin.mT, traceless, traceless * 1e100])
    values, _ = batched.eigh(matrices)
    size = matrices.abs().sum(-1).amax(-1, keepdim=True)
    assert ((values - torch.linalg.eigvalsh(matrices)).abs() <= 1e-14 * size).all()


def test_nan_is_told_as_torch_tells_it(library):
    matrices = _covariances(2, 5)
    matrices[1, 3, 2] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError):
        batched.eigh(matrices)


def test_as_many_at_once_as_the_memory_holds(library, monkeypatch):
    matrices = _covariances(10, 16)
    # Half of what is free is for three matrices of the side and 64 bytes a row of workspace each.
    monkeypatch.setattr(cusolver, "free_bytes", lambda _: 2 * 3 * (3 * 8 * 16**2 + 64 * 16))
    _check(matrices, *batched.eigh(matrices))
    assert (_count(library, "calls"), _count(library, "largest_batch")) == (5, 2)
    monkeypatch.setattr(cusolver, "free_bytes", lambda _: 100)
    _check(matrices, *batched.eigh(matrices))
    torch.testing.assert_close(batched.eigvalsh(matrices), torch.linalg.eigvalsh(matrices), rtol=0, atol=0)
    torch.testing.assert_close(batched.svdvals(matrices), torch.linalg.svdvals(matrices), rtol=0, atol=0)
    assert _count(library, "calls") == 5


def test_a_failed_call_is_one_sentence(library):
    _plant(library, STATUS)
    with pytest.raises(RuntimeError, match=r"^cusolverDnXsyevBatched of cuSOLVER failed with status 7; expected 0$"):
        batched.eigh(_covariances(2, 4))


def test_without_a_fitting_library_torch_solves(library, monkeypatch, tmp_path):
    version = ctypes.c_int.in_dll(library, "version")
    version.value = 11600
    with pytest.raises(OSError, match="version 11600; expected at least 11701"):
        cusolver.Solver(library)
    old = _build(tmp_path, "libcusolver.so.11", "-DWITHOUT_BATCHED")
    with pytest.raises(OSError, match="cusolverDnXsyevBatched"):
        cusolver.Solver(old)
    monkeypatch.undo()
    monkeypatch.setattr(cusolver, "_libraries", lambda version: iter([library, old]))
    cusolver.solver.cache_clear()
    try:
        assert cusolver.solver() is None
        matrices = _covariances(2, 6)
        torch.testing.assert_close(batched._eigh_by_cusolver(matrices)[0], torch.linalg.eigvalsh(matrices))
        torch.testing.assert_close(batched._eigvalsh_by_cusolver(matrices), torch.linalg.eigvalsh(matrices))
        torch.testing.assert_close(batched._svdvals_by_cusolver(matrices), torch.linalg.svdvals(matrices))
    finally:
        version.value = 12004
        cusolver.solver.cache_clear()


def test_the_library_of_the_wheels_has_what_is_called():
    version = (torch.version.cuda or "").partition(".")[0]
    libraries = list(cusolver._libraries(version))
    if not libraries:
        pytest.skip("this torch brings no cuSOLVER, or it does not load without a driver")
    cusolver.Solver(libraries[0])


def test_no_library_is_looked_for_in_other_builds_of_torch():
    assert list(cusolver._libraries("")) == []
    assert list(cusolver._libraries("99")) == []
