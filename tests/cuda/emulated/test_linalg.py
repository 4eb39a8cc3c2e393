"""The CUDA kernels of the small dense problems, emulated on the host in several thread orders, against LAPACK."""

import numpy as np
import pytest

from .build import ORDERS, build, run


@pytest.fixture(scope="module")
def linalg(cuda_host_folder):
    return build(cuda_host_folder, "linalg")


def _eigh(program, matrices, order=0, sweeps=30):
    count, n, _ = matrices.shape
    outputs = [np.zeros((count, n)), np.zeros((count, n, n)), np.zeros(count, np.int32)]
    return run(program, [0, sweeps, count, n], [matrices, *outputs], order)[1:]


def _singular_values(program, matrices, order=0, transposed=False):
    count, rows, columns = matrices.shape
    strides = (rows * columns, 1, rows) if transposed else (rows * columns, columns, 1)
    given = np.ascontiguousarray(matrices.mT) if transposed else matrices
    outputs = [np.zeros((count, min(rows, columns))), np.zeros(count, np.int32)]
    return run(program, [1, 30, count, rows, columns, *strides], [given, *outputs], order)[1:]


def _check_eigh(matrices, values, vectors, sweeps, rounding=30):
    n = matrices.shape[-1]
    size = np.abs(matrices).sum(-1).max(-1)[:, None] * np.finfo(float).eps * rounding
    assert (sweeps > 0).all()
    full = np.tril(matrices) + np.tril(matrices, -1).mT
    assert (np.abs(values - np.linalg.eigvalsh(full)) <= size).all()
    np.testing.assert_allclose(vectors.mT @ vectors, np.broadcast_to(np.eye(n), matrices.shape), atol=1e-13)
    assert (np.abs(full @ vectors - vectors * values[:, None]).max(-2) <= size).all()


def _covariances(rng, count, n, rows):
    x = rng.standard_normal((count, rows, n)) @ np.diag(np.logspace(0, -6, n))
    return x.mT @ x / rows


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 33])
def test_eigenvalues_and_vectors(linalg, n, order):
    rng = np.random.default_rng(n)
    symmetric = rng.standard_normal((3, n, n))
    _check_eigh(symmetric, *_eigh(linalg, symmetric, order))
    covariances = _covariances(rng, 2, n, 3 * n)
    _check_eigh(covariances, *_eigh(linalg, covariances, order))


@pytest.mark.parametrize(("n", "order"), [(64, 0), (63, -1), (64, 1), (128, 0), (127, -1), (128, 1)])
def test_every_size_of_tile_up_to_the_largest(linalg, n, order):
    rng = np.random.default_rng(0)
    covariances = _covariances(rng, 1, n, 2 * n)
    _check_eigh(covariances, *_eigh(linalg, covariances, order))
    values, _ = _singular_values(linalg, covariances, order)
    np.testing.assert_allclose(values[0], np.linalg.svd(covariances[0], compute_uv=False), atol=1e-14 * values.max())


@pytest.mark.parametrize("n", [5, 20])
def test_null_spaces_repeated_and_opposite_eigenvalues(linalg, n):
    rng = np.random.default_rng(1)
    thin = rng.standard_normal((n, 2))
    swap = np.eye(n)[::-1]
    for matrix in (
        np.zeros((n, n)),
        np.eye(n),
        np.ones((n, n)),
        thin @ thin.T,
        swap,
        -3 * np.eye(n),
        np.diag(np.arange(n) % 2.0),
    ):
        _check_eigh(matrix[None], *_eigh(linalg, np.ascontiguousarray(matrix, dtype=float)[None]))


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_eigenvalues_of_any_magnitude(linalg, scale):
    matrices = _covariances(np.random.default_rng(2), 1, 12, 30) * scale
    _check_eigh(matrices, *_eigh(linalg, matrices))


def test_what_does_not_converge_is_reported(linalg):
    matrices = np.random.default_rng(3).standard_normal((2, 30, 30))
    matrices[1] = 0
    values, _, sweeps = _eigh(linalg, matrices, sweeps=2)
    assert sweeps.tolist() == [-1, 1]
    assert np.isnan(values[0]).all()
    assert not values[1].any()


def test_nan_stays_with_its_matrix(linalg):
    matrices = _covariances(np.random.default_rng(4), 2, 9, 30)
    good = matrices[1:].copy()
    matrices[0, 4, 2] = np.nan
    values, vectors, sweeps = _eigh(linalg, matrices)
    assert np.isnan(values[0]).any()
    _check_eigh(good, values[1:], vectors[1:], sweeps[1:])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (7, 1), (16, 16), (33, 12), (12, 33), (20, 19)])
def test_singular_values(linalg, rows, columns, order):
    rng = np.random.default_rng(rows * columns)
    matrices = rng.standard_normal((3, rows, columns)) * np.logspace(0, -9, columns)
    matrices[1, :, columns // 2 :] = 0  # truncated directions
    matrices[2, rows // 2 :] = 0
    for transposed in (False, True):
        values, sweeps = _singular_values(linalg, matrices, order, transposed)
        assert (sweeps > 0).all()
        expected = np.linalg.svd(matrices, compute_uv=False)
        np.testing.assert_allclose(values, expected, atol=1e-14 * expected.max())


def test_singular_values_of_the_largest_matrix(linalg):
    matrices = np.random.default_rng(5).standard_normal((1, 128, 100))
    values, _ = _singular_values(linalg, matrices)
    np.testing.assert_allclose(values, np.linalg.svd(matrices, compute_uv=False), rtol=1e-13)


def test_no_matrix_at_all(linalg):
    assert _eigh(linalg, np.zeros((0, 4, 4)))[0].shape == (0, 4)
    assert _singular_values(linalg, np.zeros((2, 0, 3)))[0].shape == (2, 0)
