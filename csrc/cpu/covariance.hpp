// Streaming covariance on the CPU: shifted sums and cross products of several views that share their rows.
//
// A view is a matrix of `rows` x `channels` read in place from an activation tensor. For every pair (i, j) the kernel
// adds sum_r (x_i[r] - shift_i) (x_j[r] - shift_j)^T to a float64 state. Products are taken in float32 (or float64)
// over a tile of kTileRows rows and flushed to float64, which keeps float32 speed at float64 accuracy.
#pragma once
#include <cstddef>
#include <cstdint>

#include "array.hpp"

namespace prunecca::cpu {

constexpr int kPanel = 16;       // channels in a packed panel: one cache line of float32

// Rows run over (outer, middle, inner), inner fastest; strides are in elements.
struct View {
  const void* data = nullptr;
  Dtype dtype = Dtype::float32;
  int64_t channels = 0, channel_stride = 1;
  int64_t inner = 1, inner_stride = 0, middle = 1, middle_stride = 0, outer = 1, outer_stride = 0;
  const double* shift = nullptr;  // (channels)
  double* sum = nullptr;          // (channels), added to; null: this view's sums are not asked for

  int64_t rows() const { return inner * middle * outer; }
  int64_t panels() const { return (channels + kPanel - 1) / kPanel; }
};

// gram (channels_i x channels_j, row-major) is added to; when i == j it is kept symmetric.
// norms, if not null: [ sum |x_i|^2 |x_j|^2,  sum |x_j|^2 x_i  (channels_i),  sum |x_i|^2 x_j  (channels_j) ], added to.
struct Pair {
  int i = 0, j = 0;
  double* gram = nullptr;
  double* norms = nullptr;
};

struct Problem {
  const View* views = nullptr;
  int n_views = 0;
  const Pair* pairs = nullptr;
  int n_pairs = 0;
  bool float64 = false;  // take the products in float64
  int threads = 1;
};

// Where a value was not finite; view < 0: nowhere.
struct NonFinite {
  int view = -1;
  int64_t channel = -1;
};

// Bytes of scratch memory that update() needs, to be aligned to 64.
size_t workspace_bytes(const Problem& problem);

// Adds all rows to the states, or leaves them untouched and says where the first non-finite sum is.
NonFinite update(const Problem& problem, void* workspace);

}  // namespace prunecca::cpu
