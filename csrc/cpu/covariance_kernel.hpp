// The covariance kernels, written once with vector extensions; each covariance_<level>.cpp compiles them for its
// instruction set. Everything has internal linkage, so that no symbol of one level can stand in for another's.
#pragma once
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/covariance.hpp"

namespace prunecca::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T> struct Vec { typedef T type __attribute__((vector_size(kVectorBytes))); };
// The same vector at any address of its element type; may_alias because it reads what others wrote as scalars.
template <class T> struct Loose { typedef T type __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias)); };
template <class T> constexpr int kLanes = kVectorBytes / int(sizeof(T));
template <class T> constexpr int kPerPanel = kPanel / kLanes<T>;  // vectors in one row of a panel

// ---- Widening loads: kPanel consecutive elements, exactly -------------------------------------------------------
struct Half { uint16_t bits; };
struct Bfloat { uint16_t bits; };

inline float widen(Half h) {
#if defined(__F16C__)
  return _cvtsh_ss(h.bits);
#else
  const uint32_t sign = uint32_t(h.bits & 0x8000u) << 16, magnitude = h.bits & 0x7fffu;
  float value;
  if (magnitude >= 0x7c00u) {  // infinity, NaN
    const uint32_t bits = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  // Reading the bits as a float 2^112 too small handles denormals and normals alike.
  const uint32_t bits = magnitude << 13;
  std::memcpy(&value, &bits, 4);
  value *= 0x1p112f;
  return sign ? -value : value;
#endif
}
inline float widen(Bfloat b) {
  const uint32_t bits = uint32_t(b.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline float widen(float x) { return x; }
inline double widen(double x) { return x; }

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

// ---- Packing ------------------------------------------------------------------------------------------------------
// The shift of one panel's channels and their sums so far, in registers.
template <class T> struct Shifter {
  using V = typename Vec<T>::type;
  using L = typename Loose<T>::type;
  V shift[kPerPanel<T>], total[kPerPanel<T>];
  Shifter(const T* s, const T* sums) {
    for (int v = 0; v < kPerPanel<T>; ++v) {
      shift[v] = *reinterpret_cast<const L*>(s + v * kLanes<T>);
      total[v] = *reinterpret_cast<const L*>(sums + v * kLanes<T>);
    }
  }
  void put(int v, V raw, T* out) {
    const V x = raw - shift[v];
    *reinterpret_cast<V*>(out + v * kLanes<T>) = x;
    total[v] += x;
  }
  void row(const T* raw, T* out) {
    for (int v = 0; v < kPerPanel<T>; ++v) put(v, *reinterpret_cast<const L*>(raw + v * kLanes<T>), out);
  }
  void store(T* sums) const {
    for (int v = 0; v < kPerPanel<T>; ++v) *reinterpret_cast<L*>(sums + v * kLanes<T>) = total[v];
  }
};

// Sixteen rows of sixteen channels, each channel's rows contiguous: out[row][channel] = in[channel][row] - shift.
template <class T> inline void transpose(const T* in, int64_t stride, int rows, Shifter<T>& shifter, T* out) {
  for (int r = 0; r < rows; ++r) {
    alignas(64) T raw[kPanel];
    for (int c = 0; c < kPanel; ++c) raw[c] = in[c * stride + r];
    shifter.row(raw, out + r * kPanel);
  }
}
#if defined(__AVX2__)
// Four rows (4 * q ...) at a time: 128-bit loads bring every fourth channel together, which saves half of the shuffles.
// As many rows are read as the next multiple of four.
inline void transpose(const float* in, int64_t stride, int rows, Shifter<float>& shifter, float* out) {
#if defined(__AVX512F__)
  for (int q = 0; 4 * q < rows; ++q) {
    const float* p = in + 4 * q;
    __m512 b[4];
    for (int c = 0; c < 4; ++c) {
      b[c] = _mm512_castps128_ps512(_mm_loadu_ps(p + c * stride));
      b[c] = _mm512_insertf32x4(b[c], _mm_loadu_ps(p + (c + 4) * stride), 1);
      b[c] = _mm512_insertf32x4(b[c], _mm_loadu_ps(p + (c + 8) * stride), 2);
      b[c] = _mm512_insertf32x4(b[c], _mm_loadu_ps(p + (c + 12) * stride), 3);
    }
    const __m512 t0 = _mm512_unpacklo_ps(b[0], b[1]), t1 = _mm512_unpackhi_ps(b[0], b[1]);
    const __m512 t2 = _mm512_unpacklo_ps(b[2], b[3]), t3 = _mm512_unpackhi_ps(b[2], b[3]);
    const __m512 row[4] = {_mm512_shuffle_ps(t0, t2, 0x44), _mm512_shuffle_ps(t0, t2, 0xee),
                           _mm512_shuffle_ps(t1, t3, 0x44), _mm512_shuffle_ps(t1, t3, 0xee)};
    for (int r = 0; r < 4 && 4 * q + r < rows; ++r) shifter.put(0, row[r], out + (4 * q + r) * kPanel);
  }
#else
  // Eight channels after the other eight: where planes lie a power of two apart, their lines share one cache set, and a
  // set holds eight.
  for (int half = 0; half < 2; ++half)
    for (int q = 0; 4 * q < rows; ++q) {
      const float* p = in + 4 * q;
      __m256 b[4];
      for (int c = 0; c < 4; ++c)
        b[c] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + (8 * half + c) * stride)),
                                    _mm_loadu_ps(p + (8 * half + c + 4) * stride), 1);
      const __m256 t0 = _mm256_unpacklo_ps(b[0], b[1]), t1 = _mm256_unpackhi_ps(b[0], b[1]);
      const __m256 t2 = _mm256_unpacklo_ps(b[2], b[3]), t3 = _mm256_unpackhi_ps(b[2], b[3]);
      const __m256 row[4] = {_mm256_shuffle_ps(t0, t2, 0x44), _mm256_shuffle_ps(t0, t2, 0xee),
                             _mm256_shuffle_ps(t1, t3, 0x44), _mm256_shuffle_ps(t1, t3, 0xee)};
      for (int r = 0; r < 4 && 4 * q + r < rows; ++r) shifter.put(half, row[r], out + (4 * q + r) * kPanel);
    }
#endif
}
#endif

// Consecutive rows that lie one inner stride apart, starting `offset` elements into the view.
struct Run { int64_t offset; int length; };

// The runs that rows [begin, begin + count) fall into, none longer than kPanel and none crossing a multiple of kPanel
// rows from `begin`, so that each group of kPanel rows is a whole number of runs.
inline int find_runs(const View& v, int64_t begin, int count, int longest, Run* runs) {
  int n = 0;
  int64_t i = begin % v.inner, m = begin / v.inner % v.middle, o = begin / v.inner / v.middle;
  for (int done = 0, room = longest; done < count;) {  // room: rows up to the next multiple of `longest`
    int length = room;
    if (v.inner - i < length) length = int(v.inner - i);
    if (count - done < length) length = count - done;
    runs[n++] = {i * v.inner_stride + m * v.middle_stride + o * v.outer_stride, length};
    done += length;
    if ((room -= length) == 0) room = longest;
    if ((i += length) == v.inner) {
      i = 0;
      if (++m == v.middle) m = 0, ++o;
    }
  }
  return n;
}

// One panel; `n` channels are real, the rest become zero. Rows' channels are contiguous.
template <class T, class In>
inline void pack_channels(const In* p, int64_t row_stride, int rows, int n, Shifter<T>& shifter, T* out) {
  for (int r = 0; r < rows; ++r, p += row_stride, out += kPanel) {
    if constexpr (sizeof(In) == sizeof(T))
      if (n == kPanel) { shifter.row(reinterpret_cast<const T*>(p), out); continue; }
    alignas(64) T raw[kPanel];
    if (n == kPanel) load_panel(p, raw);
    else load_some(p, n, raw);
    shifter.row(raw, out);
  }
}

template <class T, class In>
inline void pack_strided(const In* p, int64_t row_stride, int64_t channel_stride, int rows, int n, Shifter<T>& shifter, T* out) {
  for (int r = 0; r < rows; ++r) {
    alignas(64) T raw[kPanel];
    for (int c = 0; c < kPanel; ++c) raw[c] = c < n ? T(widen(p[r * row_stride + c * channel_stride])) : T(0);
    shifter.row(raw, out + r * kPanel);
  }
}

// One panel of a tile whose channels are planes of contiguous rows, as in NCHW. Short runs (small images) are first
// laid side by side, so that the transposition always works on sixteen rows.
template <class T, class In>
inline void pack_planes(const In* p, int64_t channel_stride, const Run* runs, int n_runs, int n, Shifter<T>& shifter, T* out) {
  alignas(64) T side[kPanel * 2 * kPanel];  // load_some writes a full panel wherever it starts
  if (n < kPanel) std::memset(side, 0, sizeof side);
  for (int k = 0; k < n_runs;) {
    if constexpr (sizeof(In) == sizeof(T))
      if (runs[k].length % 4 == 0 && n == kPanel) {
        transpose(reinterpret_cast<const T*>(p + runs[k].offset), channel_stride, runs[k].length, shifter, out);
        out += runs[k].length * kPanel;
        ++k;
        continue;
      }
    int rows = 0;
    for (; k < n_runs && rows + runs[k].length <= kPanel; rows += runs[k++].length)
      for (int c = 0; c < n; ++c) {
        const In* q = p + c * channel_stride + runs[k].offset;
        if (runs[k].length == kPanel) load_panel(q, side + c * 2 * kPanel);
        else load_some(q, runs[k].length, side + c * 2 * kPanel + rows);
      }
    transpose(static_cast<const T*>(side), 2 * kPanel, rows, shifter, out);
    out += rows * kPanel;
  }
}

template <class T, class In>
inline void pack_view(const View& v, int64_t begin, int count, int64_t first_panel, int64_t last_panel, const T* shift,
                      T* packed, int64_t panel_stride, T* sums) {
  const In* data = static_cast<const In*>(v.data);
  Run runs[kTileRows];
  const int n_runs = find_runs(v, begin, count, kPanel, runs);
  for (int64_t c = first_panel * kPanel; c < last_panel * kPanel; ++c) sums[c] = T(0);
  const auto real = [&](int64_t panel) { return v.channels - panel * kPanel < kPanel ? int(v.channels - panel * kPanel) : kPanel; };
  if (v.inner_stride == 1 && (v.channel_stride != 1 || v.channels == 1)) {
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      Shifter<T> shifter(shift + panel * kPanel, sums + panel * kPanel);
      pack_planes(data + panel * kPanel * v.channel_stride, v.channel_stride, runs, n_runs, real(panel), shifter, packed + panel * panel_stride);
      shifter.store(sums + panel * kPanel);
    }
    return;
  }
  // A few rows at a time go through all panels, so that memory is read in order.
  int done = 0;
  for (int k = 0; k < n_runs; done += runs[k++].length)
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      const In* p = data + runs[k].offset + panel * kPanel * v.channel_stride;
      T* out = packed + panel * panel_stride + done * kPanel;
      Shifter<T> shifter(shift + panel * kPanel, sums + panel * kPanel);
      if (v.channel_stride == 1) pack_channels(p, v.inner_stride, runs[k].length, real(panel), shifter, out);
      else pack_strided(p, v.inner_stride, v.channel_stride, runs[k].length, real(panel), shifter, out);
      shifter.store(sums + panel * kPanel);
    }
}

template <class T>
void pack(const View& v, int64_t begin, int count, int64_t first_panel, int64_t last_panel, const T* shift, T* packed,
          int64_t panel_stride, T* sums) {
  switch (v.dtype) {
    case Dtype::float16: return pack_view<T, Half>(v, begin, count, first_panel, last_panel, shift, packed, panel_stride, sums);
    case Dtype::bfloat16: return pack_view<T, Bfloat>(v, begin, count, first_panel, last_panel, shift, packed, panel_stride, sums);
    case Dtype::float64: return pack_view<T, double>(v, begin, count, first_panel, last_panel, shift, packed, panel_stride, sums);
    default: return pack_view<T, float>(v, begin, count, first_panel, last_panel, shift, packed, panel_stride, sums);
  }
}

// ---- Products -----------------------------------------------------------------------------------------------------
// kRows channels of A (from `a` on) times kVectors vectors of each of N panels of B (from `b` on), held in registers over
// `chunk` rows; of the rows after the first kWhole, only the last vector is computed. Chunks join a float32 tile, then the
// float64 block: sums of sums keep the rounding error of a tile near that of one chunk. Every kPrefetchRows rows, some
// memory of the next tile is asked for.
template <class T, int kRows, int N, int kVectors = kPerPanel<T>, class V = typename Vec<T>::type, int kWhole = kRows>
inline void micro(const T* a, const T* b, int64_t panel_stride, int rows, int chunk, double* block, bool add, Prefetch* next) {
  constexpr int kLanesHere = int(sizeof(V) / sizeof(T));
  static_assert(kWhole == kRows || N == 1);
  constexpr auto first = [](int m) { return m < kWhole ? 0 : kVectors - 1; };
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
      if (add) for (int c = c0; c < kColumns; ++c) d[c] += double(from[c]);
      else for (int c = c0; c < kColumns; ++c) d[c] = double(from[c]);
    }
}

// kRows rows of output times `n` panels of B, as many panels at once as the registers hold.
template <class T, int kRows, int kWide>
inline void strip(const T* a, const T* b, int64_t panel_stride, int rows, int chunk, int n, double* block, bool add, Prefetch* next) {
  int q = 0;
  for (; q + kWide <= n; q += kWide)
    micro<T, kRows, kWide>(a, b + q * panel_stride, panel_stride, rows, chunk, block + q * kPanel * kPanel, add, next);
  if constexpr (kWide > 1)
    if (q < n) micro<T, kRows, 1>(a, b + q * panel_stride, panel_stride, rows, chunk, block + q * kPanel * kPanel, add, next);
}

// One panel of A times `n` panels of B. On the diagonal, where the first panel of B is A itself, the lower left quarter
// of the first block is not computed where the vectors allow it.
template <class T>
void multiply(const T* a, const T* b, int64_t panel_stride, int rows, int chunk, int n, bool diagonal, int64_t columns,
              double* blocks, bool add, Prefetch* next) {
#if defined(__AVX512F__)
  (void)columns;
  constexpr int kHalf = kPanel / 2, kWide = sizeof(T) == 4 ? 2 : 1;
  strip<T, kHalf, kWide>(a, b, panel_stride, rows, chunk, n, blocks, add, next);
  double* lower = blocks + kHalf * kPanel;
  if (!diagonal) return strip<T, kHalf, kWide>(a + kHalf, b, panel_stride, rows, chunk, n, lower, add, next);
  typedef T Corner __attribute__((vector_size(kHalf * sizeof(T))));
  micro<T, kHalf, 1, 1, Corner>(a + kHalf, b + kHalf, panel_stride, rows, chunk, lower + kHalf, add, next);
  strip<T, kHalf, kWide>(a + kHalf, b + panel_stride, panel_stride, rows, chunk, n - 1, lower + kPanel * kPanel, add, next);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {  // 16 = 6 + 5 + 5 rows: 12 accumulators, a row of B and a broadcast in 16 registers
    for (int q = 0; q < n; ++q, b += panel_stride, blocks += kPanel * kPanel) {  // one panel of A and of B fill L1
      if (q == n - 1 && columns <= kPanel / 2) {  // one vector of B is enough
        micro<T, 8, 1, 1>(a, b, panel_stride, rows, chunk, blocks, add, next);
        if (!(diagonal && q == 0)) micro<T, 8, 1, 1>(a + 8, b, panel_stride, rows, chunk, blocks + 8 * kPanel, add, next);
        continue;
      }
      micro<T, 6, 1>(a, b, panel_stride, rows, chunk, blocks, add, next);
      if (diagonal && q == 0) {
        micro<T, 10, 1, 2, typename Vec<T>::type, 2>(a + 6, b, panel_stride, rows, chunk, blocks + 6 * kPanel, add, next);
        continue;
      }
      micro<T, 5, 1>(a + 6, b, panel_stride, rows, chunk, blocks + 6 * kPanel, add, next);
      micro<T, 5, 1>(a + 11, b, panel_stride, rows, chunk, blocks + 11 * kPanel, add, next);
    }
  } else {
    (void)diagonal, (void)columns;
    for (int m = 0; m < kPanel; m += 2) strip<T, 2, 1>(a + m, b, panel_stride, rows, chunk, n, blocks + m * kPanel, add, next);
  }
#else
  (void)diagonal, (void)columns;
  constexpr int kRows = sizeof(T) == 4 ? 2 : 1;
  for (int m = 0; m < kPanel; m += kRows) strip<T, kRows, 1>(a + m, b, panel_stride, rows, chunk, n, blocks + m * kPanel, add, next);
#endif
}

// ---- Squared norms of rows, for the debiased HSIC -----------------------------------------------------------------
template <class T> void row_norms(const T* packed, int64_t panel_stride, int64_t panels, int rows, double* norms) {
  for (int r = 0; r < rows; ++r) norms[r] = 0;
  for (int64_t p = 0; p < panels; ++p)
    for (int r = 0; r < rows; ++r) {
      const T* x = packed + p * panel_stride + r * kPanel;
      double s = 0;
      for (int c = 0; c < kPanel; ++c) s += double(x[c]) * double(x[c]);
      norms[r] += s;
    }
}
template <class T> void weigh_rows(const T* packed, int64_t panel_stride, int64_t panels, int rows, const double* weight, double* out) {
  for (int64_t p = 0; p < panels; ++p) {
    double s[kPanel] = {};
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < kPanel; ++c) s[c] += weight[r] * double(packed[p * panel_stride + r * kPanel + c]);
    for (int c = 0; c < kPanel; ++c) out[p * kPanel + c] += s[c];
  }
}

#if defined(__AVX512F__)
template <class T> constexpr int kPasses = sizeof(T) == 4 ? 1 : 2;
#elif defined(__AVX2__)
template <class T> constexpr int kPasses = sizeof(T) == 4 ? 2 : 8;
#else
template <class T> constexpr int kPasses = sizeof(T) == 4 ? 8 : 16;
#endif
template <class T> constexpr Kernels<T> kTable{&pack<T>, &multiply<T>, kPasses<T>, &row_norms<T>, &weigh_rows<T>};

}  // namespace
}  // namespace prunecca::cpu
