// float16 and bfloat16 of the host kernels, to and from float32: in integer arithmetic, or by instructions that like it
// are not changed by a thread's flush-denormals mode. Round to nearest even.
#pragma once
#include <cstdint>
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace prunecca::cpu {
namespace {  // each translation unit has its own copy, compiled for its own instruction set

struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

inline uint32_t float_bits(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float bits_float(uint32_t x) { return __builtin_bit_cast(float, x); }

inline uint32_t widened_bits(Half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  const uint32_t subnormal = float_bits(float(int32_t(rest)) * 0x1p-24f);  // a normal float32, or zero
  const uint32_t normal = (rest << 13) + (112u << 23);
  const uint32_t special = 0x7f800000u | (rest << 13);
  return sign | (rest < 0x0400u ? subnormal : rest < 0x7c00u ? normal : special);
}
inline uint32_t widened_bits(Bfloat x) { return uint32_t(x.bits) << 16; }

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(Half x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#else
  return bits_float(widened_bits(x));
#endif
}
inline float widen(Bfloat x) { return bits_float(widened_bits(x)); }

inline void narrow(float x, float& out) { out = x; }
inline void narrow(double x, double& out) { out = x; }
inline void narrow(float x, Half& out) {
  const uint32_t bits = float_bits(x), sign = bits & 0x80000000u, rest = bits ^ sign;
  // Adding 0.5 aligns the last bit of a float16 subnormal with the last bit of the float32 sum.
  const uint32_t subnormal = float_bits(bits_float(rest) + 0.5f) - float_bits(0.5f);
  const uint32_t normal = (rest - (112u << 23) + 0x0fffu + ((rest >> 13) & 1u)) >> 13;
  const uint32_t special = rest > 0x7f800000u ? 0x7e00u : 0x7c00u;
  out.bits = uint16_t((rest < 0x38800000u ? subnormal : rest < 0x47800000u ? normal : special) | (sign >> 16));
}
inline void narrow(float x, Bfloat& out) {
  const uint32_t bits = float_bits(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

template <class Narrow> inline void widen_all(const Narrow* from, float* to, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  // GCC does not vectorise the choice between three integers above for AVX2: one by one, a step took eight times as
  // long.
  if constexpr (__is_same(Narrow, Half))
    for (; i + 8 <= n; i += 8)
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
#endif
#pragma omp simd
  for (int64_t k = i; k < n; ++k) to[k] = widen(from[k]);
}

template <class Narrow> inline void narrow_all(const float* from, Narrow* to, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  if constexpr (__is_same(Narrow, Half))
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
#pragma omp simd
  for (int64_t k = i; k < n; ++k) narrow(from[k], to[k]);
}

}  // namespace
}  // namespace prunecca::cpu
