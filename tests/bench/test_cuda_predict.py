"""The predicted times of the CUDA kernels: counted as the kernels count, and complete."""

import math
import re
from pathlib import Path

import pytest
from benchmarks.cuda import predict

from prunecca import _native

ROOT = Path(__file__).resolve().parents[2]


def test_a_prediction_is_the_larger_of_bytes_and_operations():
    work = predict.Work("f", "size", 4.3e6, {"TF32": 495e6, "float64": 0})
    assert work.seconds()[0] == pytest.approx(1e-6)
    slow = predict.Work("f", "size", 1.0, {"TF32": 495e6}, busy=0.5)
    assert slow.seconds() == (pytest.approx(2e-6), "TF32")


def test_every_predicted_kernel_is_one_that_is_reported():
    works = predict.everything()
    kernels = [predict.resources.Kernel(w.kernel + "(int)", "f.cu", "sm_90a", 64, 1024, 0, 0) for w in works]
    text = predict.report(kernels)
    assert text.count("| 64 |") == len(works)
    assert "has run on a device" in text
    with pytest.raises(ValueError, match="reports no kernel that begins with"):
        predict.as_row(works[0], kernels[1:2])
    # Every kind of kernel of csrc/cuda has a row.
    sources = "".join(f.read_text() for f in (ROOT / "csrc" / "cuda").glob("*.cu"))
    declared = set(re.findall(r"__global__ void (?:__launch_bounds__\(.*\)\s*)?(\w+)\(", sources))
    assert len(declared) > 15
    assert declared == {re.sub(r"^void |<.*", "", w.kernel) for w in works}


if hasattr(_native, "covariance_workspace_cuda"):

    @pytest.mark.parametrize(
        ("channels", "side"), [(16, 32), (32, 16), (64, 32), (128, 16), (256, 8), (512, 2), (1024, 1)]
    )
    def test_the_rows_are_cut_as_the_kernels_cut_them(channels, side):
        rows = (1 << 16) if side == 1 else predict.IMAGES
        shape = (rows, channels) if side == 1 else (rows, channels, side, side)
        strides = tuple(math.prod(shape[d + 1 :]) for d in range(len(shape)))
        x = (1 << 20, shape, strides, 0, 0)  # nothing is read
        size = _native.covariance_workspace_cuda([x], [1], [(0, 0)], [True], False, False)
        assert list(predict.products(channels, side))[1].bytes == size
