#include "cpu/single_channels.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/row_folding.hpp"

namespace prunecca::cpu {

namespace {

constexpr int64_t kTogether = 4096;          // rows that are read for one view or pair after the other: they stay in L1
constexpr int64_t kRowsPerThread = 1 << 15;  // fewer do not pay for waking another thread

}  // namespace

template <class T> bool SingleChannels<T>::fit(const Problem& problem) {
  if (fold_of(problem) != kPanel) return false;
  for (int v = 0; v < problem.n_views; ++v)
    if (problem.views[v].dtype != (std::is_same_v<T, float> ? Dtype::float32 : Dtype::float64)) return false;
  return true;
}

template <class T>
SingleChannels<T>::SingleChannels(const Problem& problem, const Kernels<T>& kernel, int threads)
    : problem_(problem), sums_(size_t(problem.n_views), 0.0), products_(size_t(problem.n_pairs), 0.0) {
  const int64_t rows = problem.rows();
  threads = int(std::clamp<int64_t>(rows / kRowsPerThread, 1, threads));
  const size_t n_views = sums_.size(), each = n_views + products_.size();
  std::vector<double> parts(each * size_t(threads), 0.0);
  const auto column = [&](int v) { return static_cast<const T*>(problem.views[v].data); };
  const auto shift = [&](int v) { return T(*problem.views[v].shift); };
#pragma omp parallel num_threads(threads)
  {
    const int t = omp_get_thread_num();
    std::vector<double> own(each, 0.0);
    for (int64_t r = rows * t / threads, end = rows * (t + 1) / threads; r < end; r += kTogether) {
      const int64_t count = std::min(kTogether, end - r);
      std::vector<bool> summed(n_views, false);
      for (int k = 0; k < problem.n_pairs; ++k) {
        const auto [i, j, gram, norms] = problem.pairs[k];
        double sum = 0;
        kernel.single(column(i) + r, shift(i), column(j) + r, shift(j), count, &sum, &own[n_views + size_t(k)]);
        if (!summed[size_t(i)]) own[size_t(i)] += sum;
        summed[size_t(i)] = true;
      }
      for (int v = 0; v < problem.n_views; ++v) {
        double unused = 0;
        if (!summed[size_t(v)])
          kernel.single(column(v) + r, shift(v), column(v) + r, shift(v), count, &own[size_t(v)], &unused);
      }
    }
    std::copy(own.begin(), own.end(), parts.begin() + int64_t(each) * t);
  }
  for (size_t at = 0; at < parts.size(); ++at) {
    const size_t entry = at % each;
    (entry < n_views ? sums_[entry] : products_[entry - n_views]) += parts[at];
  }
}

template <class T> bool SingleChannels<T>::finite() const {
  const auto is_finite = [](double x) { return std::isfinite(x); };
  return std::all_of(sums_.begin(), sums_.end(), is_finite) &&
         std::all_of(products_.begin(), products_.end(), is_finite);
}

template <class T> void SingleChannels<T>::add() const {
  for (int v = 0; v < problem_.n_views; ++v)
    if (problem_.views[v].sum) *problem_.views[v].sum += sum(v);
  for (int k = 0; k < problem_.n_pairs; ++k) *problem_.pairs[k].gram += product(k);
}

template class SingleChannels<float>;
template class SingleChannels<double>;

}  // namespace prunecca::cpu
