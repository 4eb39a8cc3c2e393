// The covariance kernels, emulated. Scalars of a view: dtype, channels, channel_stride, inner, inner_stride, middle,
// middle_stride, outer, outer_stride, offset of the first element.
#include "cuda/covariance.cu"
#include "cuda/covariance_norms.cu"
#include "harness.hpp"

using namespace prunecca;
using namespace prunecca::cuda;

static View read_view(harness::Request& r) {
  View v;
  v.dtype = Dtype(r.integer());
  v.channels = r.integer(), v.channel_stride = r.integer();
  v.inner = r.integer(), v.inner_stride = r.integer();
  v.middle = r.integer(), v.middle_stride = r.integer();
  v.outer = r.integer(), v.outer_stride = r.integer();
  v.data = r.array<char>() + r.integer() * size_of(v.dtype);
  v.shift = r.array<double>();
  v.sum = r.array<double>();
  return v;
}

// Scalars: float64, batch, views, pairs, then i and j of each pair. Arrays after those of the views: the grams and the
// norms of each pair, the note of what was not finite.
static cudaError_t run_update(harness::Request& r) {
  Problem problem;
  problem.float64 = r.integer() != 0;
  NonFiniteNote note;
  note.batch = r.integer();
  std::vector<View> views(size_t(r.integer()));
  std::vector<Pair> pairs(size_t(r.integer()));
  for (View& v : views) v = read_view(r);
  for (Pair& p : pairs)
    p.i = int(r.integer()), p.j = int(r.integer()), p.gram = r.array<double>(), p.norms = r.array<double>();
  note.least = r.array<unsigned long long>();
  problem.views = views.data(), problem.n_views = int(views.size());
  problem.pairs = pairs.data(), problem.n_pairs = int(pairs.size());
  void* workspace = harness::scratch(workspace_bytes(problem), 0xff);  // begins as NaNs
  const cudaError_t error = update(problem, note, workspace, nullptr);
  harness::release(workspace);
  return error;
}

// Bytes of dynamic shared memory of the product kernels: float, double, half; planes, rows; panels of 32, 64.
static cudaError_t shared_bytes(harness::Request& r) {
  r.write({Shape<float, float, false, 32>::kSharedBytes, Shape<float, float, false, 64>::kSharedBytes,
           Shape<float, float, true, 32>::kSharedBytes, Shape<float, float, true, 64>::kSharedBytes,
           Shape<double, double, false, 32>::kSharedBytes, Shape<double, double, false, 64>::kSharedBytes,
           Shape<double, double, true, 32>::kSharedBytes, Shape<double, double, true, 64>::kSharedBytes,
           Shape<Half, float, false, 32>::kSharedBytes, Shape<Half, float, false, 64>::kSharedBytes,
           Shape<Half, float, true, 32>::kSharedBytes, Shape<Half, float, true, 64>::kSharedBytes});
  return cudaSuccess;
}

int main() {
  return harness::serve([](harness::Request& r) {
    switch (r.integer()) {
      case 1: return run_update(r);
      case 2: return shared_bytes(r);
      default: return cudaErrorInvalidValue;
    }
  });
}
