"""What the CUDA compiler reports of the kernels: no spills, and as many blocks on an SM as their design counts on."""

import re

import numpy as np
import pytest
from emulated import resources
from emulated.build import build, run

# Kernel, by a pattern of its name: registers at most, bytes of shared memory at most, blocks per SM at least.
BUDGETS = {
    r"^void products<.*Shape<\w+, float": (255, 80 << 10, 2),  # the accumulators alone take 128
    r"^void products<.*Shape<\w+, double": (255, 80 << 10, 2),
    r"^add_pieces": (40, 2048, 6),
    r"^void norms_by_": (40, 0, 6),
    r"^void weigh_by_": (80, 2048, 3),
    r"^(inner_products|add_in_order)": (40, 256, 6),
    r"^void adam_kernel<(double|.*Table<6)": (128, 0, 2),  # six addresses: with a penalty, whose anchor takes registers
    r"^void sgd_kernel<.*Table<5": (84, 0, 3),
    r"^void adam_kernel": (84, 0, 3),
    r"^void (copy|sgd)_kernel": (64, 0, 4),
    r"^void (survey|divide|narrow|finish)_kernel": (84, 8704, 3),  # a histogram of 2048 digits
    r"^advance_kernel": (64, 0, 16),
    # float64 columns in registers, a whole matrix in shared memory: the largest tile has an SM to itself
    r"^void (eigh|singular_values)_kernel<128>": (112, 138 << 10, 1),
    r"^void (eigh|singular_values)_kernel": (112, 39 << 10, 2),
    r"": (64, 8192, 4),
}


@pytest.mark.nvcc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", resources.SHARED_KIB)
def test_every_kernel_stays_within_its_budget(cuda_host_folder, architecture):
    if architecture not in resources.architectures():
        return  # this nvcc is older than the architecture, and a build leaves it out too
    kernels = resources.report(cuda_host_folder, architecture)
    assert {k.file for k in kernels} == {f.name for f in resources.ROOT.glob("csrc/cuda/*.cu")}
    for kernel in kernels:
        registers, shared, blocks = next(b for pattern, b in BUDGETS.items() if re.search(pattern, kernel.name))
        assert kernel.spilled == 0, kernel
        assert kernel.registers <= registers, kernel
        assert kernel.static_shared + kernel.dynamic_shared <= shared, kernel
        assert kernel.blocks_per_sm >= blocks, kernel


def test_a_spilled_register_shows_in_the_report():
    text = (
        "ptxas info : Compiling entry function 'void f<int>(int)' for 'sm_80'\n    8 bytes stack frame, 4 bytes spill "
        "stores, 12 bytes spill loads\nptxas info : Used 255 registers, used 1 barriers, 96 bytes smem\n"
    )
    (kernel,) = resources._parse(text, "f.cu", "sm_80")
    assert (kernel.name, kernel.registers, kernel.static_shared, kernel.spilled) == ("void f<int>(int)", 255, 96, 16)
    assert kernel.blocks_per_sm == 1


def test_shared_memory_is_what_the_kernels_ask_for(cuda_host_folder):
    program = build(cuda_host_folder, "covariance")
    (sizes,) = run(program, [2], [np.zeros(18, np.int64)])
    shapes = [(e, r, p) for e in ("float", "double", "__half") for r in (False, True) for p in (16, 32, 64)]
    assert sizes.tolist() == [resources.products_shared(*shape) for shape in shapes]


def test_shared_memory_of_small_matrices_is_what_the_kernels_ask_for(cuda_host_folder):
    program = build(cuda_host_folder, "linalg")
    (sizes,) = run(program, [2], [np.zeros(4, np.int64)])
    assert sizes.tolist() == [resources.tile_shared(side) for side in (16, 32, 64, 128)]
