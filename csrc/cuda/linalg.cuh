// Eigenvalues, eigenvectors and singular values of many small float64 matrices, one block and one trip through shared
// memory each.
//
// One-sided Jacobi (Hestenes 1958): plane rotations from the right make the columns orthogonal; their norms are then
// the singular values. Pairs that share no column turn at the same time (round-robin order).
#pragma once
#include "cuda/platform.cuh"
#include "linalg.hpp"

namespace prunecca::cuda {

// Backward stable: the error is that of rounding a matrix of twice the size, so about n * 1e-16 of the largest
// eigenvalue.
cudaError_t eigh(const Symmetric& matrices, int most_sweeps, cudaStream_t stream);

cudaError_t singular_values(const General& matrices, int most_sweeps, cudaStream_t stream);

}  // namespace prunecca::cuda
