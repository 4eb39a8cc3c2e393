"""CKA from minibatches, against plain loops over the definition, and against debiased CKA."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, equation 5, in loops."""
    n = len(k)
    first = second = third = 0.0
    sum_k = sum(k[i, j] for i in range(n) for j in range(n) if i != j)
    sum_m = sum(m[i, j] for i in range(n) for j in range(n) if i != j)
    for i in range(n):
        for j in range(n):
            if i != j:
                first += k[i, j] * m[i, j]
                third += k[i, j] * sum(m[j, q] for q in range(n) if q != j)
    second = sum_k * sum_m / ((n - 1) * (n - 2))
    return (first + second - 2 * third / (n - 2)) / (n * (n - 3))


def by_loops(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    terms = np.zeros(3)
    for x, y in batches:
        a, b = (side.double().flatten(1).numpy() for side in (x, y))
        k, m = a @ a.T, b @ b.T
        terms += (hsic(k, m), hsic(k, k), hsic(m, m))
    return float(terms[0] / math.sqrt(terms[1] * terms[2]))


def batches_of(sizes: list[int], dtype: torch.dtype = torch.float64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    make = torch.Generator().manual_seed(0)
    found = []
    for n in sizes:
        x = torch.randn(n, 3, 2, 2, generator=make, dtype=torch.float64) + 2
        y = x.flatten(1)[:, :7] + torch.randn(n, 7, generator=make, dtype=torch.float64)
        found.append((x.to(dtype), y.to(dtype)))
    return found


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)])
def test_it_is_the_quotient_of_the_averages(dtype: torch.dtype, error: float) -> None:
    batches = batches_of([9, 9, 4, 12], dtype)
    estimate = pc.MinibatchCKA()
    for x, y in batches:
        estimate.update(x, y)
    assert float(estimate.finalize()) == pytest.approx(by_loops(batches), abs=error)
    assert estimate.batch_sizes == {9: 2, 4: 1, 12: 1}
    assert estimate.count == 34


def test_one_batch_is_debiased_cka() -> None:
    (batch,) = batches_of([60])
    exact = pc.linear_cka(*batch, debiased=True, layout="flat")
    assert pc.minibatch_cka(*batch, batch_size=60) == pytest.approx(exact, abs=1e-12)


def test_all_pairs_at_once() -> None:
    batches = batches_of([20, 20])
    estimate, square = pc.MinibatchCKA(), pc.MinibatchCKA()
    for x, y in batches:
        estimate.update([x, y.numpy()], [y, x, x[:, :1]])
        square.update([x, y])
    table = estimate.finalize()
    assert table.shape == (2, 3)
    expected = by_loops(batches)
    assert table[0].tolist()[:2] == pytest.approx([expected, 1.0])
    assert table[1].tolist()[:2] == pytest.approx([1.0, expected])
    assert table[1, 2] == pytest.approx(by_loops([(y, x[:, :1]) for x, y in batches]))
    assert square.finalize().flatten().tolist() == pytest.approx([1.0, expected, expected, 1.0])


def test_shares_merge() -> None:
    batches = batches_of([8, 8, 8, 8])
    whole, *parts = (pc.MinibatchCKA() for _ in range(4))
    for number, (x, y) in enumerate(batches):
        whole.update(x, y)
        parts[number % 2].update(x, y)
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    parts[2].merge(pc.MinibatchCKA())
    assert float(parts[2].finalize()) == pytest.approx(float(whole.finalize()), abs=1e-14)
    assert (parts[2].count, parts[2].batch_sizes) == (whole.count, whole.batch_sizes)
    assert parts[0].count == 16


def test_two_arrays_are_cut_into_like_batches() -> None:
    ((x, y),) = batches_of([50])
    estimate = pc.minibatch_cka(x.numpy(), y, batch_size=16)
    assert (estimate.batch_sizes, estimate.count) == ({17: 2, 16: 1}, 50)
    assert estimate == pytest.approx(by_loops([(x[:17], y[:17]), (x[17:34], y[17:34]), (x[34:], y[34:])]), abs=1e-12)
    again = pickle.loads(pickle.dumps(estimate))
    assert (again, again.batch_sizes) == (estimate, estimate.batch_sizes)


def test_unrelated_representations_scatter_around_zero() -> None:
    make = torch.Generator().manual_seed(1)
    x, y = (torch.randn(400, 1000, generator=make) for _ in range(2))
    assert abs(pc.minibatch_cka(x, y, batch_size=50)) < 0.02
    assert pc.linear_cka(x, y, precision="float32") > 0.6  # the biased form


def test_means_cancel() -> None:
    ((x, y),) = batches_of([40])
    far = (x + 1000).float()
    assert pc.minibatch_cka(far, y) == pytest.approx(pc.minibatch_cka(far.double() - 1000, y), abs=1e-6)


def test_a_constant_has_no_value() -> None:
    assert math.isnan(pc.minibatch_cka(torch.ones(20, 3), torch.randn(20, 3)))


def test_refusals() -> None:
    estimate = pc.MinibatchCKA()
    with pytest.raises(ValueError, match=r"^no batch was given; expected at least one of 4"):
        estimate.finalize()
    with pytest.raises(
        ValueError, match=r"^batch 3: x has shape \(3, 5\); expected \(n, \.\.\.\) with a batch of at least 4"
    ):
        estimate.update(torch.randn(3, 5), torch.randn(3, 5), where="batch 3")
    with pytest.raises(ValueError, match=r"^x has 5 datapoints but y has 4; expected the same$"):
        estimate.update(torch.randn(5, 5), torch.randn(4, 5))
    with pytest.raises(ValueError, match=r"^x\[1\] has 6 datapoints; expected 5"):
        estimate.update([torch.randn(5, 5), torch.randn(6, 5)])
    bad = torch.randn(5, 5)
    bad[1, 1] = torch.inf
    with pytest.raises(ValueError, match=r"^y holds NaN or infinity"):
        estimate.update(torch.randn(5, 5), bad)
    estimate.update([torch.randn(5, 5)] * 2)
    with pytest.raises(ValueError, match=r"^1 and 1 representations were given; expected 2 and 2 as before$"):
        estimate.update(torch.randn(5, 5))
    with pytest.raises(ValueError, match=r"^no representation was given as x; expected at least one$"):
        estimate.update([])
    with pytest.raises(ValueError, match=r"^batch_size is 3; expected a number of datapoints of at least 4$"):
        pc.minibatch_cka(bad, bad, batch_size=3)
    with pytest.raises(ValueError, match="both must have the same datapoints"):
        pc.minibatch_cka(torch.randn(9, 2), torch.randn(8, 2))
    with pytest.raises(TypeError, match="x is a int"):
        pc.minibatch_cka(3, bad)
