// Eigenvalues, eigenvectors and singular values of many small float64 matrices, one block and one trip through shared
// memory each.
//
// One-sided Jacobi (Hestenes 1958): plane rotations from the right make the columns orthogonal; their norms are then the
// singular values. Pairs that share no column turn at the same time (round-robin order).
#pragma once
#include "cuda/platform.cuh"

namespace prunecca::cuda {

constexpr int kLargestSide = 128;  // 136 KiB of shared memory; layers of up to 128 channels
constexpr int kMostSweeps = 30;    // 6 to 10 are usual

// `count` symmetric n x n matrices, contiguous, of which the lower triangles are read.
struct Symmetric {
  const double* data;
  int64_t count;
  int n;               // at most kLargestSide
  double* values;      // (count, n), ascending
  double* vectors;     // (count, n, n), one unit eigenvector per column
  int* sweeps;         // (count), how many it took; -1: not converged, and the values are NaN; or null
};

// Backward stable: the error is that of rounding a matrix of twice the size, so about n * 1e-16 of the largest eigenvalue.
cudaError_t eigh(const Symmetric& matrices, int most_sweeps, cudaStream_t stream);

// `count` matrices of any shape up to kLargestSide by kLargestSide; strides in elements.
struct General {
  const double* data;
  int64_t count, matrix_stride;
  int rows, columns;
  int64_t row_stride, column_stride;
  double* values;      // (count, min(rows, columns)), descending
  int* sweeps;
};

cudaError_t singular_values(const General& matrices, int most_sweeps, cudaStream_t stream);

}  // namespace prunecca::cuda
