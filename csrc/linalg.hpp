// Batches of small float64 matrices, and what the kernels can take.
#pragma once
#include <cstdint>

namespace prunecca {

constexpr int kLargestSide = 128;  // 136 KiB of shared memory; layers of up to 128 channels
constexpr int kMostSweeps = 30;    // of Jacobi rotations; 6 to 10 are usual

// `count` symmetric n x n matrices, contiguous, of which the lower triangles are read.
struct Symmetric {
  const double* data;
  int64_t count;
  int n;            // at most kLargestSide
  double* values;   // (count, n), ascending
  double* vectors;  // (count, n, n), one unit eigenvector per column
  int* sweeps;      // (count), how many it took; -1: not converged, and the values are NaN; or null
};

// `count` matrices of any shape up to kLargestSide by kLargestSide; strides in elements.
struct General {
  const double* data;
  int64_t count, matrix_stride;
  int rows, columns;
  int64_t row_stride, column_stride;
  double* values;  // (count, min(rows, columns)), descending
  int* sweeps;
};

}  // namespace prunecca
