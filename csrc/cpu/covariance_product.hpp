// Products of packed panels.
#pragma once
#include <algorithm>
#include <utility>

#include "cpu/covariance_pack.hpp"

namespace prunecca::cpu {
namespace {  // each translation unit has its own copy, compiled for its own instruction set

// How many times `multiply` goes through the rows of a whole block, at least.
#if defined(__AVX512F__)
template <class T> constexpr int kPasses = sizeof(T) == 4 ? 1 : 2;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
template <class T> constexpr int kPasses = sizeof(T) == 4 ? 2 : 8;
constexpr int kRegisters = 16;
#else
template <class T> constexpr int kPasses = sizeof(T) == 4 ? 8 : 16;
constexpr int kRegisters = 16;
#endif

// kRows channels of A (from `a` on) times kVectors vectors of each of N panels of B (from `b` on), held in registers
// over `chunk` rows; of the rows after the first kWhole, only the last vector is computed. Chunks join a float32 tile,
// then the float64 block: sums of sums keep the rounding error of a tile near that of one chunk. Every kPrefetchRows
// rows, some memory of the next tile is asked for.
template <class T, int kRows, int N, int kVectors = kPerPanel<T>, class V = typename Vec<T>::type, int kWhole = kRows>
inline void micro(const T* a, const T* b, int64_t panel_stride, int rows, int chunk, double* block, bool add,
                  Prefetch* next) {
  constexpr int kLanesHere = int(sizeof(V) / sizeof(T));
  static_assert(kWhole == kRows || N == 1);
  constexpr auto first = [](int m) { return m < kWhole ? 0 : kVectors - 1; };
  // A large state has left the caches since the tile before: it comes back while the rows are multiplied.
  constexpr int kLine = 64 / sizeof(double);
  for (int m = 0; add && m < kRows; ++m)
    for (int n = 0; n < N; ++n)
      for (int c = 0; c < kPanel; c += kLine) __builtin_prefetch(block + n * (kPanel * kPanel) + m * kPanel + c, 1, 3);
  V held[kRows][N * kVectors];
  for (int begin = 0; begin < rows; begin += chunk) {
    const int end = rows - begin < chunk ? rows : begin + chunk;
    V acc[kRows][N * kVectors] = {};
    for (int r = begin; r < end;) {
      const int stop = end - r < kPrefetchRows ? end : r + kPrefetchRows;
      if (next) next->some();
      for (; r < stop; ++r) {
        V x[N * kVectors];
        for (int n = 0; n < N; ++n)
          for (int v = 0; v < kVectors; ++v)
            x[n * kVectors + v] = *(reinterpret_cast<const V*>(b + n * panel_stride + r * kPanel) + v);
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m) {
          const T s = a[r * kPanel + m];
#pragma GCC unroll 8
          for (int n = first(m); n < N * kVectors; ++n) acc[m][n] += s * x[n];
        }
      }
    }
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 8
      for (int n = first(m); n < N * kVectors; ++n) held[m][n] = begin ? held[m][n] + acc[m][n] : acc[m][n];
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const T* from = reinterpret_cast<const T*>(&held[m][n * kVectors]);
      double* d = block + n * (kPanel * kPanel) + m * kPanel;
      constexpr int kColumns = kVectors * kLanesHere;
      const int c0 = first(m) * kLanesHere;
      if (add)
        for (int c = c0; c < kColumns; ++c) d[c] += double(from[c]);
      else
        for (int c = c0; c < kColumns; ++c) d[c] = double(from[c]);
    }
}

// kRows rows of output times `n` panels of B, as many panels at once as the registers hold.
template <class T, int kRows, int kWide>
inline void strip(const T* a, const T* b, int64_t panel_stride, int rows, int chunk, int n, double* block, bool add,
                  Prefetch* next) {
  int q = 0;
  for (; q + kWide <= n; q += kWide)
    micro<T, kRows, kWide>(a, b + q * panel_stride, panel_stride, rows, chunk, block + q * kPanel * kPanel, add, next);
  if constexpr (kWide > 1)
    if (q < n)
      micro<T, kRows, 1>(a, b + q * panel_stride, panel_stride, rows, chunk, block + q * kPanel * kPanel, add, next);
}

// One panel of A times `n` whole panels of B. On the diagonal, where the first panel of B is A itself, the lower left
// quarter of the first block is not computed where the vectors allow it.
template <class T>
inline void multiply_whole(const T* a, const T* b, int64_t panel_stride, int rows, int chunk, int n, bool diagonal,
                           double* blocks, bool add, Prefetch* next) {
#if defined(__AVX512F__)
  constexpr int kHalf = kPanel / 2, kWide = sizeof(T) == 4 ? 2 : 1;
  strip<T, kHalf, kWide>(a, b, panel_stride, rows, chunk, n, blocks, add, next);
  double* lower = blocks + kHalf * kPanel;
  if (!diagonal) return strip<T, kHalf, kWide>(a + kHalf, b, panel_stride, rows, chunk, n, lower, add, next);
  typedef T Corner __attribute__((vector_size(kHalf * sizeof(T))));
  micro<T, kHalf, 1, 1, Corner>(a + kHalf, b + kHalf, panel_stride, rows, chunk, lower + kHalf, add, next);
  strip<T, kHalf, kWide>(a + kHalf, b + panel_stride, panel_stride, rows, chunk, n - 1, lower + kPanel * kPanel, add,
                         next);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {  // 16 = 6 + 5 + 5 rows: 12 accumulators, a row of B and a broadcast in 16 registers
    for (int q = 0; q < n; ++q, b += panel_stride, blocks += kPanel * kPanel) {  // one panel of A and of B fill L1
      micro<T, 6, 1>(a, b, panel_stride, rows, chunk, blocks, add, next);
      if (diagonal && q == 0) {
        micro<T, 10, 1, 2, typename Vec<T>::type, 2>(a + 6, b, panel_stride, rows, chunk, blocks + 6 * kPanel, add,
                                                     next);
        continue;
      }
      micro<T, 5, 1>(a + 6, b, panel_stride, rows, chunk, blocks + 6 * kPanel, add, next);
      micro<T, 5, 1>(a + 11, b, panel_stride, rows, chunk, blocks + 11 * kPanel, add, next);
    }
  } else {
    (void)diagonal;
    for (int m = 0; m < kPanel; m += 2)
      strip<T, 2, 1>(a + m, b, panel_stride, rows, chunk, n, blocks + m * kPanel, add, next);
  }
#else
  (void)diagonal;
  constexpr int kRows = sizeof(T) == 4 ? 2 : 1;
  for (int m = 0; m < kPanel; m += kRows)
    strip<T, kRows, 1>(a + m, b, panel_stride, rows, chunk, n, blocks + m * kPanel, add, next);
#endif
}

// A panel of which few channels are real does not fill a vector: they take the place of the rows, and the block is
// turned when it joins the others.
constexpr int kMostNarrow = 12;  // channels
template <class T>
constexpr int kNarrowRows = std::min(kMostNarrow, (kRegisters - 4) / kPerPanel<T>);  // of them at once

// The first kRows channels of B times all of A, as `micro` does it.
template <class T, int kRows>
inline void narrow(const T* a, const T* b, int rows, int chunk, bool diagonal, double* block, bool add,
                   Prefetch* next) {
  using V = typename Vec<T>::type;
  // A product waits four to five cycles for the one before it in the same sum, and two are begun in a cycle: where the
  // sums are few, several rows at a time have sums of their own.
  constexpr int kVectors = kPerPanel<T>, kSums = kRows * kVectors, kAtOnce = kSums < 8 ? (7 + kSums) / kSums : 1;
  V held[kRows][kVectors] = {};
  for (int begin = 0; begin < rows; begin += chunk) {
    const int end = rows - begin < chunk ? rows : begin + chunk;
    V acc[kAtOnce][kRows][kVectors] = {};
    const auto add_row = [&](int r, V(&sums)[kRows][kVectors]) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
          sums[m][v] += b[r * kPanel + m] * *(reinterpret_cast<const V*>(a + r * kPanel) + v);
    };
    for (int r = begin; r < end;) {
      const int stop = end - r < kPrefetchRows ? end : r + kPrefetchRows;
      for (int k = 0; next && k < kPasses<T>; ++k) next->some();
      for (; r + kAtOnce <= stop; r += kAtOnce)
#pragma GCC unroll 8
        for (int k = 0; k < kAtOnce; ++k) add_row(r + k, acc[k]);
      for (; kAtOnce > 1 && r < stop; ++r) add_row(r, acc[0]);
    }
    for (int k = 0; k < kAtOnce; ++k)
      for (int m = 0; m < kRows; ++m)
        for (int v = 0; v < kVectors; ++v) held[m][v] += acc[k][m][v];
  }
  // Of the symmetric block either half will do: that one is not turned.
  const int row = diagonal ? kPanel : 1, column = diagonal ? 1 : kPanel;
  for (int m = 0; m < kRows; ++m) {
    const T* from = reinterpret_cast<const T*>(held[m]);
    for (int c = 0; c < kPanel; ++c) {
      double& d = block[m * row + c * column];
      d = add ? d + double(from[c]) : double(from[c]);
    }
  }
}

template <class T, int... kRows>
inline void narrow_by_rows(std::integer_sequence<int, kRows...>, int count, const T* a, const T* b, int rows,
                           int chunk, bool diagonal, double* block, bool add, Prefetch* next) {
  (void)((count == kRows + 1 && (narrow<T, kRows + 1>(a, b, rows, chunk, diagonal, block, add, next), true)) || ...);
}

template <class T>
inline void multiply_narrow(const T* a, const T* b, int64_t panel_stride, int rows, int chunk, int columns,
                            bool diagonal, double* block, bool add, Prefetch* next) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    if (columns == 7 || columns == 8) {  // one vector: no more products, and nothing to turn
      micro<T, 8, 1, 1>(a, b, panel_stride, rows, chunk, block, add, next);
      if (!diagonal) micro<T, 8, 1, 1>(a + 8, b, panel_stride, rows, chunk, block + 8 * kPanel, add, next);
      return;
    }
#endif
  const int passes = (columns + kNarrowRows<T> - 1) / kNarrowRows<T>;
  for (int pass = 0; pass < passes; ++pass) {
    const int m = columns * pass / passes, count = columns * (pass + 1) / passes - m;
    narrow_by_rows<T>(std::make_integer_sequence<int, kNarrowRows<T>>{}, count, a, b + m, rows, chunk, diagonal,
                      block + m * (diagonal ? kPanel : 1), add, next);
  }
}

template <class T>
void multiply(const T* a, const T* b, int64_t panel_stride, int rows, int chunk, int n, bool diagonal, int64_t columns,
              double* blocks, bool add, Prefetch* next) {
  const bool is_narrow = columns <= kMostNarrow;
  const int whole = is_narrow ? n - 1 : n;
  if (whole) multiply_whole<T>(a, b, panel_stride, rows, chunk, whole, diagonal, blocks, add, next);
  if (is_narrow)
    multiply_narrow<T>(a, b + whole * panel_stride, panel_stride, rows, chunk, int(columns), diagonal && n == 1,
                       blocks + whole * kPanel * kPanel, add, next);
}

}  // namespace
}  // namespace prunecca::cpu
