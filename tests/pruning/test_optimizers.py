"""MaskedAdam and MaskedSGD against torch.optim on the network that is left."""

from __future__ import annotations

import pytest
import torch
from stepping import PAIRS, P, assert_pruned_are_zero, parameters, random_masks, set_gradients


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_equals_torch_on_the_sub_network(level: str, pair: str, dtype: torch.dtype, tolerance: float) -> None:
    make, make_torch = PAIRS[pair]
    weights, masks = parameters(dtype), random_masks()
    masks_or_all = {n: masks.get(n, torch.ones(p.shape, dtype=torch.bool)) for n, p in weights.items()}
    left = {n: p.detach()[masks_or_all[n]].double().requires_grad_() for n, p in weights.items()}
    ours, theirs = make(list(weights.items()), masks), make_torch(list(left.values()))
    for step in range(12):
        set_gradients(weights, step)
        for n, p in left.items():
            p.grad = weights[n].grad[masks_or_all[n]].double()
        ours.step()
        theirs.step()
        assert_pruned_are_zero(ours, weights)
    for n, p in left.items():
        mine = weights[n].detach()[masks_or_all[n]].double()
        torch.testing.assert_close(mine, p.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_have_float32_moments(level: str, pair: str, dtype: torch.dtype) -> None:
    # One step from a float32 state: the result must be the float32 result, rounded once.
    make, _ = PAIRS[pair]
    half = parameters(dtype)
    full = {n: p.detach().float().requires_grad_() for n, p in half.items()}
    masks = random_masks()
    a, b = make(list(half.items()), masks), make(list(full.items()), masks)
    for step in range(5):
        set_gradients(half, step)
        for n, p in full.items():
            p.grad = half[n].grad.float()
            with torch.no_grad():
                p.copy_(half[n])
        a.step()
        b.step()
        assert_pruned_are_zero(a, half)
        for n, p in half.items():
            assert torch.equal(p.detach(), full[n].detach().to(dtype))
            for key, value in a.state[p].items():
                assert value.dtype == torch.float32
                assert torch.equal(value, b.state[full[n]][key])


def test_every_finite_half_value_survives_a_step_of_nothing(level: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        values = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype).clone()
        weight = values.clone().requires_grad_()
        weight.grad = torch.zeros_like(weight)
        P.MaskedSGD([("w", weight)], lr=0.0).step()
        finite = values.isfinite()
        assert torch.equal(weight.detach()[finite], values[finite])
        assert weight.detach()[values.isnan()].isnan().all()


def test_half_rounding_is_to_nearest_even(level: str) -> None:
    # w - lr * g with w = 0: every float32 g is rounded once. Compared with torch's own conversion.
    g = torch.Generator().manual_seed(0)
    exponent = torch.randint(-30, 18, (20000,), generator=g).float()
    for dtype in (torch.float16, torch.bfloat16):
        gradient = (torch.randn(20000, generator=g) * exponent.exp2()).to(dtype)
        weight = torch.zeros(20000, dtype=dtype, requires_grad=True)
        weight.grad = gradient
        P.MaskedSGD([("w", weight)], lr=1 / 3).step()
        expected = (0 - torch.tensor(1 / 3) * gradient.float()).to(dtype)
        assert torch.equal(weight.detach(), expected)


def test_channels_last_and_other_gradient_layouts(level: str) -> None:
    plain = torch.randn(6, 4, 3, 3)
    mask = torch.rand(6, 4, 3, 3) > 0.5
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = plain.clone().to(memory_format=layout).requires_grad_()
        optimizer = P.MaskedAdam([("w", weight)], {"w": mask}, lr=0.1)
        for step in range(3):
            weight.grad = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(step))
            optimizer.step()
            if step == 0:  # the model changes its memory format under the optimizer
                weight.data = weight.data.to(memory_format=torch.channels_last)
        results.append(weight.detach())
    assert torch.equal(*results)
    assert (results[0][~mask] == 0).all()
