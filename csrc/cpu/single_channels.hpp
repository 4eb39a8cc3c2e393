// Representations of one channel each, such as the output of a regression or of a single filter.
#pragma once
#include <vector>

#include "cpu/covariance.hpp"
#include "cpu/covariance_kernel.hpp"

namespace prunecca::cpu {

// The sums and products of such a problem. Same input and threads: same bits.
template <class T> class SingleChannels {
 public:
  // Whether all views are vectors of T of many rows that follow each other in memory, of which all count.
  static bool fit(const Problem& problem);

  SingleChannels(const Problem& problem, const Kernels<T>& kernel, int threads);
  bool finite() const;
  double product(int pair) const { return products_[size_t(pair)]; }
  double sum(int view) const { return sums_[size_t(view)]; }
  void add() const;  // to the states of the problem

 private:
  const Problem& problem_;
  std::vector<double> sums_, products_;
};

}  // namespace prunecca::cpu
