// Streaming covariance on the CPU: shifted sums and cross products of several views that share their rows.
//
// A view is a matrix of `rows` x `channels` read in place from an activation tensor. For every pair (i, j) the kernel
// adds sum_r (x_i[r] - shift_i) (x_j[r] - shift_j)^T to a float64 state. Products are taken in float32 (or float64)
// over a tile of kTileRows rows and flushed to float64, which keeps float32 speed at float64 accuracy.
#pragma once
#include <cstddef>
#include <cstdint>

#include "array.hpp"
#include "cpu/simd_level.hpp"
#include "cpu/prefetch.hpp"

namespace prunecca::cpu {

constexpr int kPanel = 16;       // channels in a packed panel: one cache line of float32
constexpr int kTileRows = 256;   // rows between two flushes to float64: two panels of float32 fill L1
constexpr int kPrefetchRows = 16;  // rows between two prefetches
constexpr int kPanelPad = 16;    // elements between panels, so that equal rows of all panels do not share a cache set

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

// What each SIMD level provides (csrc/cpu/covariance_<level>.cpp). T is float or double.
template <class T> struct Kernels {
  // Rows [begin, begin + count) of a view, minus the shift, as panels[p][row][kPanel]; adds nothing, writes `sums`.
  void (*pack)(const View& view, int64_t begin, int count, int64_t first_panel, int64_t last_panel, const T* shift,
               T* packed, int64_t panel_stride, T* sums);
  // blocks[q][16][16] (+)= A^T B_q for one panel of A and `n` consecutive panels of B; `diagonal`: B_0 is A, and only the
  // upper triangle of its block is needed. Of the last panel of B only `columns` channels need be computed. Partial sums
  // in T are over at most `chunk` rows.
  void (*multiply)(const T* a, const T* b, int64_t panel_stride, int rows, int chunk, int n, bool diagonal, int64_t columns,
                   double* blocks, bool add, Prefetch* next);
  // How many times `multiply` goes through the rows of a block, at least; each time it prefetches every kPrefetchRows rows.
  int passes;
  // Squared norms of packed rows.
  void (*norms)(const T* packed, int64_t panel_stride, int64_t panels, int rows, double* norms);
  // sum over rows of weight[r] * packed[r], added to out (panels * 16).
  void (*weigh)(const T* packed, int64_t panel_stride, int64_t panels, int rows, const double* weight, double* out);
};

template <class T> const Kernels<T>& kernels(SimdLevel level);

}  // namespace prunecca::cpu
