// Streaming covariance on a CUDA device: the primitive of cpu/covariance.hpp, on device memory and a stream.
//
// A view is a matrix of rows x channels read in place from an activation tensor. For every pair (i, j), i <= j, the
// kernels add sum_r (x_i[r] - shift_i) (x_j[r] - shift_j)^T to a float64 state on the device. Nothing here allocates
// or synchronises, so all of it can be captured in a CUDA graph; the same call on the same data gives the same bits.
#pragma once
#include "array.hpp"
#include "cuda/platform.cuh"

namespace prunecca::cuda {

constexpr int kMostViews = 8;

// Rows run over (outer, middle, inner), inner fastest; strides are in elements of `dtype`.
struct View {
  const void* data = nullptr;
  Dtype dtype = Dtype::float32;
  int64_t channels = 0, channel_stride = 1;
  int64_t inner = 1, inner_stride = 0, middle = 1, middle_stride = 0, outer = 1, outer_stride = 0;
  const double* shift = nullptr;  // (channels); rounded to float32 where products are taken in float32
  double* sum = nullptr;          // (channels), added to; null: not asked for

  int64_t rows() const { return inner * middle * outer; }
};

struct Pair {
  int i = 0, j = 0;
  double* gram = nullptr;   // (channels_i, channels_j), added to; kept symmetric when i == j
  double* norms = nullptr;  // or null: [sum |x_i|^2 |x_j|^2, sum |x_j|^2 x_i, sum |x_i|^2 x_j], 1 + C_i + C_j, added to
};

struct Problem {
  const View* views = nullptr;  // of one dtype
  int n_views = 0;
  const Pair* pairs = nullptr;
  int n_pairs = 0;
  bool float64 = false;  // take the products in float64; always so for float64 views
  // Where the first non-finite sum is noted, as the least of batch << 40 | unsure << 39 | view << 32 | channel; to begin
  // with all ones. `batch` is the caller's number of this call; unsure: the fault may lie in the pair's other view.
  unsigned long long* nonfinite = nullptr;
  int64_t batch = 0;
};

// Bytes of device memory that update() needs, to be aligned to 256; 0 when update() would refuse the problem.
size_t workspace_bytes(const Problem& problem);

// Queues the whole update on `stream`; needs at least one row. cudaErrorInvalidValue, and nothing done: more than
// kMostViews views, views of several dtypes or numbers of rows, 2^31 rows or more, more than 2^14 channels in all, a
// pair with i > j, or rows whose dimensions no common nesting of three covers.
cudaError_t update(const Problem& problem, void* workspace, cudaStream_t stream);

// The steps of the norms (covariance_norms.cu), for at least one row.
// norms[r] = sum over channels of (x[r, c] - shift[c])^2.
cudaError_t squared_norms(const View& view, double* norms, cudaStream_t stream);
// out[c] (and also[c], unless null) += sum over rows of weight[r] (x[r, c] - shift[c]).
cudaError_t weigh(const View& view, const double* weight, double* scratch, double* out, double* also, cudaStream_t stream);
// out[0] += sum over n rows of a[r] b[r].
cudaError_t inner_product(const double* a, const double* b, int64_t n, double* scratch, double* out, cudaStream_t stream);
// Doubles of scratch that weigh() needs for this view; enough for inner_product() over its rows too.
int64_t norms_scratch(const View& view);

}  // namespace prunecca::cuda
