"""The ``ssyrk`` rivals of the covariance benchmarks compute what ours does, and their errors are measured rightly."""

from __future__ import annotations

import numpy as np
import torch

from prunecca.bench import blas, workloads


def test_each_blas_gives_the_upper_triangle() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((200, 37)).astype(np.float32))
    right = np.triu(x.numpy().astype(np.float64).T @ x.numpy().astype(np.float64))
    rivals = blas.syrk_rivals(x)
    assert any("ssyrk" in name for name in rivals)
    for name, call in rivals.items():
        np.testing.assert_allclose(call().triu().numpy(), right, rtol=1e-4, atol=1e-4, err_msg=name)


def test_an_error_is_relative_to_the_covariance() -> None:
    x = np.array([[1.0, 2.0], [3.0, 5.0], [8.0, 4.0]])
    mean, right = torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x, rowvar=False))
    product = torch.from_numpy(x.T @ x)
    off = product.clone()
    off[0, 1] += 2 * 0.01  # by 0.01 in both triangles of the covariance of three rows
    product[1, 0] = off[1, 0] = np.nan  # is not read
    found = blas.relative_errors({"right": product, "off": off}, mean, right, 3)
    assert found["right"] < 1e-15
    assert abs(found["off"] - np.sqrt(2) * 0.01 / np.linalg.norm(right)) < 1e-12


def test_every_rival_of_a_covariance_has_its_own_error() -> None:
    for contest in (workloads.covariance_of_rows(20, 5000), workloads.covariance_of_images((64, 20, 8, 8))):
        found = contest.errors({name: call() for name, call in contest.rivals.items()})
        assert set(found) == {name for name in contest.rivals if not name.startswith("prunecca")}
        assert all(0 < error < 1e-5 for error in found.values()), found
        assert any("ssyrk" in name for name in found)
