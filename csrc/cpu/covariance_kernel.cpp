// Written once with vector extensions.
#include "cpu/covariance_kernel.hpp"

#include "cpu/covariance_pack.hpp"
#include "cpu/covariance_product.hpp"
#include "cpu/covariance_single.hpp"

namespace prunecca::cpu {
namespace {

// Squared norms of rows, for the debiased HSIC.
template <class T> void row_norms(const T* packed, int64_t panel_stride, int64_t panels, int rows, double* norms) {
  for (int r = 0; r < rows; ++r) norms[r] = 0;
  for (int64_t p = 0; p < panels; ++p)
    for (int r = 0; r < rows; ++r) {
      const T* x = packed + p * panel_stride + r * kPanel;
      double s = 0;
      for (int c = 0; c < kPanel; ++c) s += double(x[c]) * double(x[c]);
      norms[r] += s;
    }
}
template <class T> void weigh_rows(const T* packed, int64_t panel_stride, int64_t panels, int rows,
                                   const double* weight, double* out) {
  for (int64_t p = 0; p < panels; ++p) {
    double s[kPanel] = {};
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < kPanel; ++c) s[c] += weight[r] * double(packed[p * panel_stride + r * kPanel + c]);
    for (int c = 0; c < kPanel; ++c) out[p * kPanel + c] += s[c];
  }
}

template <class T>
constexpr Kernels<T> kTable{&pack<T>, &multiply<T>, kPasses<T>, &row_norms<T>, &weigh_rows<T>, 1, &single<T>};
constexpr CovarianceKernel kKernel{kTable<float>, kTable<double>};

}  // namespace

const CovarianceKernel& covariance_kernel(ThisLevel) { return kKernel; }

}  // namespace prunecca::cpu
