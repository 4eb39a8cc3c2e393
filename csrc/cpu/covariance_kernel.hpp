// The loops of the covariance over one tile: what each SIMD level provides.
#pragma once
#include <cstdint>

#include "cpu/covariance.hpp"
#include "cpu/prefetch.hpp"
#include "cpu/simd_level.hpp"

namespace prunecca::cpu {

constexpr int kTileRows = 256;     // rows between two flushes to float64: two panels of float32 fill L1
constexpr int kPrefetchRows = 16;  // rows between two prefetches
constexpr int kPanelPad = 16;      // elements between panels, so that equal rows of all panels do not share a cache set

// T is float or double.
template <class T> struct Kernels {
  // Rows [begin, begin + count) of a view, or of its `kept` ones, minus the shift, as panels[p][row][kPanel]; adds
  // nothing, writes `sums`.
  void (*pack)(const View& view, const int64_t* kept, int64_t begin, int count, int64_t first_panel, int64_t last_panel,
               const T* shift, T* packed, int64_t panel_stride, T* sums);
  // blocks[q][16][16] (+)= A^T B_q for one panel of A and `n` consecutive panels of B; `diagonal`: B_0 is A, and only
  // the upper triangle of its block is needed. Of the last panel of B only `columns` channels need be computed. Partial
  // sums in T are over at most `chunk` rows.
  void (*multiply)(const T* a, const T* b, int64_t panel_stride, int rows, int chunk, int n, bool diagonal,
                   int64_t columns, double* blocks, bool add, Prefetch* next);
  // How many times `multiply` goes through the rows of a block, at least; each time it prefetches every kPrefetchRows
  // rows.
  int passes;
  // Squared norms of packed rows.
  void (*norms)(const T* packed, int64_t panel_stride, int64_t panels, int rows, double* norms);
  // sum over rows of weight[r] * packed[r], added to out (panels * 16).
  void (*weigh)(const T* packed, int64_t panel_stride, int64_t panels, int rows, const double* weight, double* out);
  int size = 1;  // values of T that a packed element takes
  // Of two single channels, unpacked: adds the sum of (a - shift_a) and that of its products with (b - shift_b). Vectors
  // alone have it.
  void (*single)(const T* a, T shift_a, const T* b, T shift_b, int64_t rows, double* sum, double* product) = nullptr;
};

struct CovarianceKernel {
  Kernels<float> float32;
  Kernels<double> float64;
};

#define PRUNECCA_LEVEL(name, runs) const CovarianceKernel& covariance_kernel(AtLevel<SimdLevel::name>);
PRUNECCA_SIMD_LEVELS(PRUNECCA_LEVEL)
#undef PRUNECCA_LEVEL

}  // namespace prunecca::cpu
