// What the covariance kernels of both devices take: activations as matrices, and which of their products to add up.
#pragma once
#include "array.hpp"

namespace prunecca {

constexpr int kMostViews = 8;  // of one call on a CUDA device

// A matrix of rows x channels, read in place from an activation. Rows run over (outer, middle, inner), inner fastest;
// strides are in elements.
struct View {
  const void* data = nullptr;
  Dtype dtype = Dtype::float32;
  int64_t channels = 0, channel_stride = 1;
  int64_t inner = 1, inner_stride = 0, middle = 1, middle_stride = 0, outer = 1, outer_stride = 0;
  const double* shift = nullptr;  // (channels); rounded to float32 where products are taken in float32
  double* sum = nullptr;          // (channels), added to; null: this view's sums are not asked for
  int64_t count = 0;              // rows in the states already

  int64_t rows() const { return inner * middle * outer; }
};

// Adds sum_r (x_i[r] - shift_i) (x_j[r] - shift_j)^T to gram (channels_i, channels_j).
struct Pair {
  int i = 0, j = 0;
  double* gram = nullptr;
  double* norms = nullptr;  // or null: [sum |x_i|^2 |x_j|^2, sum |x_j|^2 x_i, sum |x_i|^2 x_j], 1 + C_i + C_j, added to
};

// Views that share their rows, and the pairs of them that are wanted.
struct Problem {
  const View* views = nullptr;
  int n_views = 0;
  const Pair* pairs = nullptr;
  int n_pairs = 0;
  bool float64 = false;  // take the products in float64
  // Numbers of the rows that count, ascending; null: all do. On the host alone.
  const int64_t* kept = nullptr;
  int64_t n_kept = 0;

  int64_t rows() const { return kept ? n_kept : n_views ? views[0].rows() : 0; }
};

}  // namespace prunecca
