// Widening loads: kPanel consecutive channels or rows of an activation, exactly.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/covariance_kernel.hpp"
#include "half.hpp"

namespace prunecca::cpu {
namespace {  // each translation unit has its own copy, compiled for its own instruction set

template <class T, class In> inline void load_panel(const In* p, T* out) {
  for (int c = 0; c < kPanel; ++c) out[c] = T(widen(p[c]));
}
#if defined(__AVX512F__)
inline void load_panel(const Half* p, float* out) {
  _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
inline void load_panel(const Bfloat* p, float* out) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  _mm512_storeu_si512(out, _mm512_slli_epi32(wide, 16));
}
#elif defined(__AVX2__)
inline void load_panel(const Half* p, float* out) {
  for (int h = 0; h < 2; ++h)
    _mm256_storeu_ps(out + 8 * h, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * h))));
}
inline void load_panel(const Bfloat* p, float* out) {
  for (int h = 0; h < 2; ++h) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * h)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8 * h), _mm256_slli_epi32(wide, 16));
  }
}
#endif
template <class T, class In> inline void load_some(const In* p, int n, T* out) {
  In some[kPanel] = {};
  std::memcpy(some, p, n * sizeof(In));
  load_panel(some, out);
}
#if defined(__AVX512F__)
inline void load_some(const float* p, int n, float* out) {
  _mm512_storeu_ps(out, _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p));
}
inline void load_some(const Half* p, int n, float* out) {
  _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p)));
}
#elif defined(__AVX2__)
inline void load_some(const float* p, int n, float* out) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int h = 0; h < 2; ++h) {
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8 * h), lane);
    _mm256_storeu_ps(out + 8 * h, n > 8 * h ? _mm256_maskload_ps(p + 8 * h, mask) : _mm256_setzero_ps());
  }
}
#endif

}  // namespace
}  // namespace prunecca::cpu
