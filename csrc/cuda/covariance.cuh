// Streaming covariance on a CUDA device: the primitive of cpu/covariance.hpp, on device memory and a stream.
//
// Views are of one dtype, pairs have i <= j, and the gram of a view with itself is kept symmetric. Nothing here
// allocates or synchronises, so all of it can be captured in a CUDA graph; the same call on the same data gives the
// same bits.
#pragma once
#include "covariance.hpp"
#include "cuda/platform.cuh"

namespace prunecca::cuda {

// Where the first non-finite sum is noted, as the least of batch << 40 | unsure << 39 | view << 32 | channel; to begin
// with all ones. `batch` is the caller's number of this call; unsure: the fault may lie in the pair's other view.
struct NonFiniteNote {
  unsigned long long* least = nullptr;
  int64_t batch = 0;
};

// Bytes of device memory that update() needs, to be aligned to 256; 0 when update() would refuse the problem.
size_t workspace_bytes(const Problem& problem);

// Queues the whole update on `stream`; needs at least one row. cudaErrorInvalidValue, and nothing done: more than
// kMostViews views, views of several dtypes or numbers of rows, 2^31 rows or more, more than 2^14 channels in all, a
// pair with i > j, or rows whose dimensions no common nesting of three covers.
cudaError_t update(const Problem& problem, const NonFiniteNote& note, void* workspace, cudaStream_t stream);

// The steps of the norms (covariance_norms.cu), for at least one row.
// norms[r] = sum over channels of (x[r, c] - shift[c])^2.
cudaError_t squared_norms(const View& view, double* norms, cudaStream_t stream);
// out[c] (and also[c], unless null) += sum over rows of weight[r] (x[r, c] - shift[c]).
cudaError_t weigh(const View& view, const double* weight, double* scratch, double* out, double* also,
                  cudaStream_t stream);
// out[0] += sum over n rows of a[r] b[r].
cudaError_t inner_product(const double* a, const double* b, int64_t n, double* scratch, double* out,
                          cudaStream_t stream);
// Doubles of scratch that weigh() needs for this view; enough for inner_product() over its rows too.
int64_t norms_scratch(const View& view);

}  // namespace prunecca::cuda
