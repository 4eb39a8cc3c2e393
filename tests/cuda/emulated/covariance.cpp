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
static cudaError_t run_update(harness::Request& r, View (*read)(harness::Request&) = read_view) {
  Problem problem;
  problem.float64 = r.integer() != 0;
  NonFiniteNote note;
  note.batch = r.integer();
  std::vector<View> views(size_t(r.integer()));
  std::vector<Pair> pairs(size_t(r.integer()));
  for (View& v : views) v = read(r);
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

// As run_update, of views whose array holds their elements one after the other (outer, middle, inner, channel), to be
// spread over memory as their strides say.
static std::vector<std::pair<void*, size_t>> spread;
static View read_spread(harness::Request& r) {
  View v = read_view(r);
  const size_t size = size_of(v.dtype);
  const int64_t last = (v.channels - 1) * v.channel_stride + (v.inner - 1) * v.inner_stride +
                       (v.middle - 1) * v.middle_stride + (v.outer - 1) * v.outer_stride;
  const auto* from = static_cast<const char*>(v.data);
  auto* to = static_cast<char*>(harness::sparse(size_t(last + 1) * size));
  spread.push_back({to, size_t(last + 1) * size});
  for (int64_t o = 0; o < v.outer; ++o)
    for (int64_t m = 0; m < v.middle; ++m)
      for (int64_t i = 0; i < v.inner; ++i)
        for (int64_t c = 0; c < v.channels; ++c, from += size) {
          const int64_t at = o * v.outer_stride + m * v.middle_stride + i * v.inner_stride + c * v.channel_stride;
          harness::copy(to + at * int64_t(size), from, size);
        }
  v.data = to;
  return v;
}
static cudaError_t run_spread(harness::Request& r) {
  const cudaError_t error = run_update(r, read_spread);
  for (const auto& [memory, bytes] : spread) harness::release_sparse(memory, bytes);
  spread.clear();
  return error;
}

// Two updates of two views and their pair each, on two streams. Scalars: float64, then the views'. Arrays: for each stream
// those of its views, its gram and its note.
static cudaError_t run_beside(harness::Request& r) {
  const bool float64 = r.integer() != 0;
  void* workspaces[2] = {};
  cudaError_t error = cudaSuccess;
  for (int k = 0; k < 2 && error == cudaSuccess; ++k) {
    const View views[2] = {read_view(r), read_view(r)};
    Pair pair;
    pair.i = 0, pair.j = 1, pair.gram = r.array<double>();
    NonFiniteNote note;
    note.batch = k, note.least = r.array<unsigned long long>();
    Problem problem;
    problem.float64 = float64;
    problem.views = views, problem.n_views = 2, problem.pairs = &pair, problem.n_pairs = 1;
    workspaces[k] = harness::scratch(workspace_bytes(problem), 0xff);
    error = update(problem, note, workspaces[k], harness::stream(k + 1));
  }
  harness::join();  // what the problems were made of is gone by now
  for (void* workspace : workspaces) harness::release(workspace);
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
      case 3: return run_spread(r);
      case 4: return run_beside(r);
      default: return cudaErrorInvalidValue;
    }
  });
}
