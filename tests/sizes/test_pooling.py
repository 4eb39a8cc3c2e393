"""Pooling to a common resolution: as torch's in float64, and by hand where sizes divide each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from prunecca.sizes.pooling import common_size, pooled

pytestmark = pytest.mark.usefixtures("one_thread")
CASES = [
    ("ncl", (3, 4, 11), (4,)),
    ("nlc", (3, 11, 4), (4,)),
    ("lnc", (11, 3, 4), (4,)),
    ("nchw", (2, 5, 7, 9), (3, 4)),
    ("nhwc", (2, 7, 9, 5), (3, 4)),
    ("infer", (2, 5, 7, 9), (7, 4)),
    ("chw", (5, 7, 9), (3, 9)),
    ("ncdhw", (2, 3, 4, 5, 6), (2, 3, 4)),
    ("ndhwc", (2, 4, 5, 6, 3), (2, 3, 4)),
]


def by_torch(x: torch.Tensor, layout: str, size: tuple[int, ...]) -> torch.Tensor:
    """In float64, with the channels moved in front and back."""
    pool = {1: functional.adaptive_avg_pool1d, 2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}
    letters = "nchw" if layout == "infer" else layout
    space = [c for c in letters if c not in "nc"]
    order = ["n"] * ("n" in letters) + ["c", *space]
    moved = x.double().permute([letters.index(c) for c in order])
    moved = moved if "n" in letters else moved.unsqueeze(0)
    out = pool[len(space)](moved, size)
    out = out if "n" in letters else out.squeeze(0)
    return out.permute([order.index(c) for c in letters])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("layout", "shape", "size"), CASES)
def test_it_is_that_of_torch(layout: str, shape: tuple[int, ...], size: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = pooled(x, layout, size)
    assert found.dtype == dtype
    expected = by_torch(x, layout, size)
    torch.testing.assert_close(
        found.double(), expected, atol=2 * torch.finfo(dtype).eps, rtol=2 * torch.finfo(dtype).eps
    )


def test_where_sizes_divide_each_other() -> None:
    x = np.random.default_rng(0).standard_normal((3, 6, 8, 5))
    expected = x.reshape(3, 3, 2, 2, 4, 5).mean((2, 4))
    np.testing.assert_allclose(pooled(x, "nhwc", (3, 2)).numpy(), expected, atol=1e-15)


def test_channels_last_stay_last_in_memory() -> None:
    x = torch.randn(2, 5, 8, 8).contiguous(memory_format=torch.channels_last)
    assert pooled(x, "nchw", (4, 2)).is_contiguous(memory_format=torch.channels_last)
    assert pooled(x.contiguous(), "nchw", (4, 2)).is_contiguous()
    assert pooled(torch.randn(2, 8, 8, 5), "nhwc", (4, 2)).is_contiguous()
    assert pooled(torch.randn(2, 8, 5), "nlc", (4,)).is_contiguous()


def test_what_has_the_size_is_left_alone() -> None:
    x = torch.randn(2, 5, 8, 8)
    assert pooled(x, "nchw", (8, 8)).data_ptr() == x.data_ptr()


def test_the_common_size_is_the_smaller() -> None:
    assert common_size([(2, 5, 9, 4), (2, 6, 7, 3)], ["nchw", "nhwc"]) == (6, 4)
    assert common_size([(2, 5, 9), (2, 5, 4)], ["ncl", "ncl"]) == (4,)
    assert common_size([(2, 9, 5), (2, 9, 4)], ["nlc", "nlc"]) == (9,)
    assert common_size([(2, 9, 5), (8, 2, 4)], ["nlc", "lnc"], (4,)) == (4,)


def test_refusals() -> None:
    with pytest.raises(
        ValueError, match=r"^an activation of shape \(2, 9, 5\) with layout 'nlc' is a sequence of tokens"
    ):
        common_size([(2, 9, 5), (2, 8, 5)], ["nlc", "nlc"])
    with pytest.raises(ValueError, match="expected as many dimensions in space"):
        common_size([(2, 5, 9), (2, 5, 9, 9)], ["ncl", "nchw"])
    with pytest.raises(ValueError, match=r"cannot be pooled from \(9,\) to \(10,\)"):
        common_size([(2, 5, 9), (2, 5, 10)], ["ncl", "ncl"], (10,))
    x = torch.randn(2, 5, 8, 8)
    with pytest.raises(
        ValueError, match=r"^layer 'a': an activation of shape .* from \(8, 8\) to \(9, 8\); expected as many"
    ):
        pooled(x, "nchw", (9, 8), where="layer 'a'")
    for size in ((0, 4), (4,), (4, 4, 4)):
        with pytest.raises(ValueError, match="cannot be pooled"):
            pooled(x, "nchw", size)
    with pytest.raises(ValueError, match=r"with layout 'nc' cannot be pooled; expected 1 to 3 dimensions in space"):
        pooled(x[:, :, 0, 0], "nc", (1,))
    with pytest.raises(ValueError, match="with layout 'flat' cannot be pooled"):
        pooled(x, "flat", (1, 1))
    with pytest.raises(ValueError, match="say which: layout='nlc' or layout='ncl'"):
        pooled(x[0], "infer", (1,))
