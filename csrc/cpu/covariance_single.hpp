// Representations of one channel, whose rows are a vector: nothing to pack, and one product a row.
#pragma once
#include <algorithm>

#include "cpu/covariance_pack.hpp"

namespace prunecca::cpu {
namespace {  // each translation unit has its own copy, compiled for its own instruction set

constexpr int64_t kSingleRows = 2048;  // between two flushes to float64: sums of 32 or 64 rows in each lane

// kSame: b is a.
template <class T, bool kSame>
inline void single_pass(const T* a, T shift_a, const T* b, T shift_b, int64_t rows, double* sum, double* product) {
  using V = typename Vec<T>::type;
  using L = typename Loose<T>::type;
  constexpr int kAtOnce = 4;  // a sum waits four to five cycles for the one before it
  double all_sums[kLanes<T>] = {}, all_products[kLanes<T>] = {};
  for (int64_t begin = 0; begin < rows; begin += kSingleRows) {
    const int64_t end = std::min(rows, begin + kSingleRows);
    V sums[kAtOnce] = {}, products[kAtOnce] = {};
    int64_t r = begin;
    for (; r + kAtOnce * kLanes<T> <= end; r += kAtOnce * kLanes<T>)
#pragma GCC unroll 4
      for (int k = 0; k < kAtOnce; ++k) {
        const V x = *reinterpret_cast<const L*>(a + r + k * kLanes<T>) - shift_a;
        const V y = kSame ? x : *reinterpret_cast<const L*>(b + r + k * kLanes<T>) - shift_b;
        sums[k] += x;
        products[k] += x * y;
      }
    T last_sum = 0, last_product = 0;
    for (; r < end; ++r) {
      const T x = a[r] - shift_a;
      last_sum += x;
      last_product += x * (b[r] - shift_b);
    }
    for (int k = 1; k < kAtOnce; ++k) sums[0] += sums[k], products[0] += products[k];
    *sum += double(last_sum);
    *product += double(last_product);
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      all_sums[lane] += double(sums[0][lane]);
      all_products[lane] += double(products[0][lane]);
    }
  }
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    *sum += all_sums[lane];
    *product += all_products[lane];
  }
}

template <class T>
void single(const T* a, T shift_a, const T* b, T shift_b, int64_t rows, double* sum, double* product) {
  if (a == b)
    single_pass<T, true>(a, shift_a, a, shift_a, rows, sum, product);
  else
    single_pass<T, false>(a, shift_a, b, shift_b, rows, sum, product);
}

}  // namespace
}  // namespace prunecca::cpu
