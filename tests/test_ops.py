"""torch.ops.prunecca.masked_weight: values, gradients, and torch's own checks of an operator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunecca.ops import masked_weight


def strided(dtype: torch.dtype) -> list[Tensor]:
    base = torch.randn(4, 6, 3, 5).to(dtype)
    return [
        base,
        base.to(memory_format=torch.channels_last),
        base.transpose(0, 3),
        base[:, ::2],
        base[:0],
        base[0, 0, 0, 0],
        base[:1].expand(4, 6, 3, 5),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_is_where(dtype: torch.dtype) -> None:
    for weight in strided(dtype):
        mask = torch.rand(weight.shape) > 0.5
        before = weight.clone()
        for layout in (mask, mask.contiguous(memory_format=torch.channels_last) if mask.ndim == 4 else mask):
            out = masked_weight(weight, layout)
            assert torch.equal(out, torch.where(mask, weight, 0))
            assert not out[~mask].signbit().any()
        assert torch.equal(weight, before)


def test_pruned_nan_and_infinity_become_zero() -> None:
    weight = torch.tensor([float("nan"), float("inf"), -1.0, -0.0, 2.0])
    assert masked_weight(weight, torch.tensor([False, False, False, False, True])).tolist() == [0, 0, 0, 0, 2]


def test_gradient_is_masked_twice_over() -> None:
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(5, 4) > 0.4
    assert torch.autograd.gradcheck(lambda w: masked_weight(w, mask), (weight,))
    assert torch.autograd.gradgradcheck(lambda w: masked_weight(w, mask), (weight,))
    masked_weight(weight, mask).sum().backward()
    assert torch.equal(weight.grad, mask.double())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own doing
@pytest.mark.parametrize("index", range(7))
def test_opcheck(index: int) -> None:
    weight = strided(torch.float32)[index].detach()
    mask = torch.rand(weight.shape) > 0.5
    torch.library.opcheck(torch.ops.prunecca.masked_weight.default, (weight, mask))
    if weight._base is None:
        torch.library.opcheck(torch.ops.prunecca.masked_weight.default, (weight.clone().requires_grad_(), mask))


def test_compiles_in_one_graph() -> None:
    layer, mask = nn.Linear(6, 5), torch.rand(5, 6) > 0.5

    def forward(x: Tensor) -> Tensor:
        return nn.functional.linear(x.sin(), masked_weight(layer.weight, mask), layer.bias).cos()

    x = torch.randn(3, 6)
    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), forward(x))
    forward(x).sum().backward()
    expected, layer.weight.grad = layer.weight.grad, None
    compiled(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, expected)
    assert (layer.weight.grad[~mask] == 0).all()


def test_masks_that_do_not_fit() -> None:
    weight = torch.randn(3, 4)
    with pytest.raises(TypeError, match=r"mask has dtype torch\.float32; expected torch\.bool"):
        masked_weight(weight, torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"mask is \(4, 3\) on cpu; expected the weight's \(3, 4\) on cpu"):
        masked_weight(weight, torch.ones(4, 3, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"weight has dtype torch\.int64"):
        masked_weight(torch.arange(3), torch.ones(3, dtype=torch.bool))
