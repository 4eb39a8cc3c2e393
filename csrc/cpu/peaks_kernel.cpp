// Written once with vector extensions.
#include "cpu/peaks_kernel.hpp"

#include "cpu/vectors.hpp"

namespace prunecca::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kChains = 24;
#else
constexpr int kChains = 12;
#endif

// Twelve or more chains that do not wait for each other hide a latency of 4 to 5 cycles on two units, and together
// with the two factors they fit the registers. The values tend to 2 and never leave the normal range.
template <class T> double fma(int64_t iterations) {
  typedef T V __attribute__((vector_size(kVectorBytes)));
  V factor = V{} + T(0.5), term = V{} + T(1), chain[kChains];
  for (int c = 0; c < kChains; ++c) chain[c] = V{} + T(c);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * factor + term;
#if defined(__x86_64__)
    asm volatile("" : "+x"(factor), "+x"(term));  // so that rounds are not merged
#endif
  }
  V sum = {};
  for (int c = 0; c < kChains; ++c) sum += chain[c];
  volatile T kept = sum[0];
  (void)kept;
  return 2.0 * kChains * (kVectorBytes / double(sizeof(T))) * double(iterations);
}

inline uint64_t read(const uint64_t* data, int64_t words) {
  typedef uint64_t V __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  constexpr int kWords = kVectorBytes / 8, kStreams = 8;
  V sum[kStreams] = {};
  int64_t i = 0;
  for (; i + kStreams * kWords <= words; i += kStreams * kWords)
    for (int s = 0; s < kStreams; ++s) sum[s] ^= *reinterpret_cast<const V*>(data + i + s * kWords);
  uint64_t out = 0;
  for (int s = 0; s < kStreams; ++s)
    for (int l = 0; l < kWords; ++l) out ^= sum[s][l];
  for (; i < words; ++i) out ^= data[i];
  return out;
}

}  // namespace

PeaksKernel peaks_kernel(ThisLevel) { return {&fma<float>, &fma<double>, &read}; }

}  // namespace prunecca::cpu
