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

// Bytes of dynamic shared memory of the product kernels: float, double, half; planes, rows; panels of 16, 32, 64.
template <class T, class P, bool kRowMajor> static void shared_bytes(int64_t*& to) {
  *to++ = int64_t(Shape<T, P, kRowMajor, 16>::kSharedBytes);
  *to++ = int64_t(Shape<T, P, kRowMajor, 32>::kSharedBytes);
  *to++ = int64_t(Shape<T, P, kRowMajor, 64>::kSharedBytes);
}
static cudaError_t shared_bytes(harness::Request& r) {
  int64_t n[18], *to = n;
  shared_bytes<float, float, false>(to), shared_bytes<float, float, true>(to);
  shared_bytes<double, double, false>(to), shared_bytes<double, double, true>(to);
  shared_bytes<Half, float, false>(to), shared_bytes<Half, float, true>(to);
  r.write({n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11], n[12], n[13], n[14], n[15], n[16],
           n[17]});
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
