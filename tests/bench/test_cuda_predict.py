"""The predicted times of the CUDA kernels: counted as the kernels count, and complete."""

import math
import re
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.cuda import predict, sass
from benchmarks.cuda import work as counted

from prunecca import _native

ROOT = Path(__file__).resolve().parents[2]


def _code(name, loops=(), **counts):
    code = sass.Code(Counter(counts))
    return sass.Kernel(name, code, tuple(sass.Code(Counter(loop)) for loop in loops), code)


def test_a_prediction_is_the_time_of_what_is_busiest():
    work = counted.Work("f", "size", 4.3e6, {"TF32": 0.62 * 495e6, "float64": 0})
    assert work.seconds(_code("f"))[0] == pytest.approx(1e-6)
    slow = counted.Work("f", "size", 1.0, {"TF32": 0.62 * 495e6}, busy=0.5)
    assert slow.seconds(_code("f")) == (pytest.approx(2e-6), "TF32")
    many = counted.Work("f", "size", 1.0, {}, warps=counted.ISSUE / 100)
    assert many.seconds(_code("f", FADD=3)) == (pytest.approx(0.03), "issue")
    loops = counted.Work("f", "size", 1.0, {}, turns=(counted.ISSUE, counted.ISSUE), copied=9 * counted.SHARED)
    code = _code("f", [{"HMMA": 1, "FADD": 1}, {"HMMA": 2, "LDS": 1}, {"HMMA": 2, "LDS": 2}], HMMA=100)
    assert loops.seconds(code) == (pytest.approx(13), "shared")


def test_every_predicted_kernel_is_one_that_is_reported():
    works = counted.everything()
    kernels = [predict.resources.Kernel(w.kernel + "(int)", "f.cu", "sm_90a", 61, 1024, 0, 0) for w in works]
    codes = [_code(w.kernel + "(int)", [{"HMMA": 2, "DFMA": 1}], HMMA=9) for w in works]
    text = predict.report(kernels, codes)
    assert text.count("| 61 |") == len(works)
    assert "has run on a device" in text
    with pytest.raises(ValueError, match="reports no kernel that begins with"):
        predict.as_row(works[0], kernels[1:2], codes)
    # Every kind of kernel of csrc/cuda has a row.
    sources = "".join(f.read_text() for f in (ROOT / "csrc" / "cuda").glob("*.cu"))
    declared = set(re.findall(r"__global__ void (?:__launch_bounds__\(.*\)\s*)?(\w+)\(", sources))
    assert len(declared) > 15
    assert declared == {re.sub(r"^void |<.*", "", w.kernel) for w in works}


SASS = """
    .section .text._Z1fv,"ax",@progbits
.L_x_3:
        /*0000*/  MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/  LDS.64 R2, [R1] ;
.L_x_1:
        /*0020*/  @!P0 LDS.128 R4, [R1] ;
        /*0030*/  HMMA.1688.F32.TF32 R4, R4, R2, RZ ;
        /*0040*/  @P0 BRA `(.L_x_1) ;
        /*0050*/  @P1 BRA `(.L_x_0) ;
.L_x_2:
        /*0060*/  BRA `(.L_x_2);
"""


def test_instructions_are_counted_in_all_and_in_the_innermost_loop():
    (kernel,) = sass.parse(SASS)
    assert (kernel.name, kernel.whole.issued, kernel.whole.shared) == ("f()", 7, 6)
    (loop,) = kernel.loops
    assert (loop.issued, loop.tensor, loop.shared) == (3, 1, 4)
    assert kernel.products() == (loop, loop)
    with pytest.raises(ValueError, match="'f' has no loop with products of tensor cores"):
        _code("f", FADD=1).products()


def test_the_usual_way_has_the_wide_accesses_and_few_instructions():
    text = """
    .section .text._Z1gv,"ax",@progbits
        /*0000*/  ISETP.NE.AND P0, PT, R1, R2, PT ;
        /*0010*/  @P0 BRA `(.L_x_1) ;
        /*0020*/  LDG.E R3, [R4] ;
        /*0030*/  EXIT ;
.L_x_1:
        /*0040*/  LDG.E.128 R4, [R4] ;
        /*0050*/  @!P0 BRA `(.L_x_2) ;
        /*0060*/  FADD R4, R4, R4 ;
.L_x_2:
        /*0070*/  EXIT ;
"""
    (kernel,) = sass.parse(text)
    assert kernel.usual.counts == Counter({"ISETP.NE.AND": 1, "BRA": 2, "LDG.E.128": 1, "EXIT": 1})


if hasattr(_native, "covariance_workspace_cuda"):

    @pytest.mark.parametrize(
        ("channels", "side"), [(16, 32), (32, 16), (64, 32), (128, 16), (256, 8), (512, 2), (1024, 1)]
    )
    def test_the_rows_are_cut_as_the_kernels_cut_them(channels, side):
        rows = (1 << 16) if side == 1 else counted.IMAGES
        shape = (rows, channels) if side == 1 else (rows, channels, side, side)
        strides = tuple(math.prod(shape[d + 1 :]) for d in range(len(shape)))
        x = (1 << 20, shape, strides, 0, 0)  # nothing is read
        size = _native.covariance_workspace_cuda([x], [1], [(0, 0)], [True], False, False)
        assert list(counted.products(channels, side))[1].bytes == size
