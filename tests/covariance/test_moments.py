"""The state behind a covariance: sums that are moved to other shifts, against the same sums taken there."""

from __future__ import annotations

import pytest
import torch

from prunecca.covariance.moments import CrossMoments, Moments


def moments(rows: torch.Tensor, shift: torch.Tensor) -> Moments:
    """By the definition, in float64."""
    new = Moments.empty(shift, "float64", norms=True)
    new.count, new.sum = len(rows), (rows - shift).sum(0)
    new.scatter = cross(rows, rows, shift, shift)
    return new


def cross(x: torch.Tensor, y: torch.Tensor, shift_x: torch.Tensor, shift_y: torch.Tensor) -> CrossMoments:
    a, b = x - shift_x, y - shift_y
    p, q = a.square().sum(1), b.square().sum(1)
    return CrossMoments(a.T @ b, torch.cat([(p @ q)[None], q @ a, p @ b]))


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(50, 4).double() + 3, torch.randn(50, 3).double() - 1


def test_moved_sums_are_those_of_the_other_shift(pair):
    x, y = pair
    old, new = (torch.randn(4).double(), torch.randn(3).double()), (torch.randn(4).double(), torch.randn(3).double())
    first, second = moments(x, old[0]), moments(y, old[1])
    moved = cross(x, y, *old).moved(first, second, *new)
    expected = cross(x, y, *new)
    torch.testing.assert_close(moved.products, expected.products)
    torch.testing.assert_close(moved.norms, expected.norms)
    torch.testing.assert_close(first.moved_to(new[0]).sum, moments(x, new[0]).sum)
    torch.testing.assert_close(first.moved_to(new[0]).mean(), x.mean(0))
    with pytest.raises(ValueError, match="cannot merge 4 channels into 3"):
        first.moved_to(new[1])


def test_centred_sums_are_covariances_and_fourth_moments(pair):
    x, y = pair
    first, second = moments(x, torch.zeros(4).double()), moments(y, torch.ones(3).double())
    products = cross(x, y, first.shift, second.shift)
    torch.testing.assert_close(products.centred(first, second), torch.cov(torch.cat([x, y], 1).T)[:4, 4:])
    a, b = ((t - t.mean(0)).square().sum(1) for t in (x, y))
    torch.testing.assert_close(products.fourth(first, second), a @ b)
    with pytest.raises(ValueError, match="the norms were not kept"):
        CrossMoments(products.products).fourth(first, second)


def test_moments_add_up_and_copies_are_apart(pair):
    x, _ = pair
    shift = torch.zeros(4).double()
    whole, part = moments(x[:20], shift), moments(x[20:], shift)
    kept = whole.copy()
    whole.add(part)
    torch.testing.assert_close(whole.scatter.products, moments(x, shift).scatter.products)
    assert (whole.count, kept.count) == (50, 20)
    kept.clear()
    assert not any(tensor.any() for tensor in kept.tensors().values())
    assert list(kept.tensors()) == ["shift", "sum", "gram", "norms"], "the names in files stay"
