// The flags of the threshold selection, 32 scores at a time, where AVX2 is: the compiler's own code for the loop with
// bytes and 32-bit keys side by side takes twice as long.
#pragma once
#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>

#include "half.hpp"

namespace prunecca::cpu {
namespace {  // each translation unit has its own copy, compiled for its own instruction set

constexpr int64_t kFlagged = 32;

inline __m256i bits_of_8(const float* data) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)); }
inline __m128i halves_of_8(const void* data) { return _mm_loadu_si128(static_cast<const __m128i*>(data)); }
inline __m256i bits_of_8(const Bfloat* data) {
  return _mm256_slli_epi32(_mm256_cvtepu16_epi32(halves_of_8(data)), 16);
}
inline __m256i bits_of_8(const Half* data) { return _mm256_castps_si256(_mm256_cvtph_ps(halves_of_8(data))); }

// Flags the scores whose keys are in [low, high], and writes mask = alive and key >= low.
template <bool kByValue> class Flagger {
 public:
  int64_t survivors = 0, kept = 0;  // so far

  Flagger(uint32_t low, uint32_t high)
      : low_(_mm256_set1_epi32(int32_t(low))), high_(_mm256_set1_epi32(int32_t(high))) {}

  // Bit i: survivor i is in the range. alive: null where all are.
  template <class T> uint32_t flag(const T* data, const uint8_t* alive, uint8_t* mask) {
    __m256i from_low[4], to_high[4];
    for (int k = 0; k < 4; ++k) {
      const __m256i bits = bits_of_8(data + 8 * k), magnitude = _mm256_slli_epi32(bits, 1);
      largest_ = _mm256_max_epu32(largest_, magnitude);
      const __m256i key = kByValue ? key_by_value(bits, magnitude) : magnitude;
      from_low[k] = _mm256_cmpeq_epi32(_mm256_max_epu32(key, low_), key);
      to_high[k] = _mm256_cmpeq_epi32(_mm256_min_epu32(key, high_), key);
    }
    const __m256i ones = _mm256_set1_epi8(1);
    const __m256i live =
        alive ? _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(alive)), ones) : ones;
    const __m256i left = _mm256_and_si256(bytes_of(from_low), live);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(mask), left);
    const uint32_t left_bits = uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(left, ones)));
    survivors += __builtin_popcount(uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(live, ones))));
    kept += __builtin_popcount(left_bits);
    return left_bits & uint32_t(_mm256_movemask_epi8(bytes_of(to_high)));
  }

  // The largest magnitude, as bits without the sign, whether it survives or not.
  uint32_t largest() const {
    uint32_t lanes[8], out = 0;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), largest_);
    for (uint32_t lane : lanes) out = lane > out ? lane : out;
    return out;
  }

 private:
  static __m256i key_by_value(__m256i bits, __m256i magnitude) {
    const __m256i plain = _mm256_andnot_si256(_mm256_cmpeq_epi32(magnitude, _mm256_setzero_si256()), bits);
    const __m256i flips = _mm256_or_si256(_mm256_srai_epi32(plain, 31), _mm256_set1_epi32(int32_t(0x80000000u)));
    return _mm256_xor_si256(plain, flips);
  }
  // 32 lanes of all bits or none, as bytes.
  static __m256i bytes_of(const __m256i* lanes) {
    const __m256i mixed =
        _mm256_packs_epi16(_mm256_packs_epi32(lanes[0], lanes[1]), _mm256_packs_epi32(lanes[2], lanes[3]));
    return _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }

  __m256i low_, high_, largest_ = _mm256_setzero_si256();
};

}  // namespace
}  // namespace prunecca::cpu
#endif
