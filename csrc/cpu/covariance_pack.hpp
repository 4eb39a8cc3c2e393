// Packing: rows of a view, minus the shift, side by side in panels of kPanel channels.
#pragma once
#include <cstring>

#include "cpu/covariance_load.hpp"
#include "cpu/vectors.hpp"

namespace prunecca::cpu {
namespace {  // each translation unit has its own copy, compiled for its own instruction set

template <class T> constexpr int kPerPanel = kPanel / kLanes<T>;  // vectors in one row of a panel

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
struct Run {
  int64_t offset;
  int length;
};

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

// The same of the rows that are kept: neighbours of them that are neighbours in memory are one run.
inline int find_kept_runs(const View& v, const int64_t* kept, int count, int longest, Run* runs) {
  int n = 0;
  for (int done = 0; done < count; ++n) {
    const int64_t row = kept[done], i = row % v.inner, m = row / v.inner % v.middle, o = row / v.inner / v.middle;
    int length = 1, most = longest - done % longest;
    if (count - done < most) most = count - done;
    if (v.inner - i < most) most = int(v.inner - i);
    while (length < most && kept[done + length] == row + length) ++length;
    runs[n] = {i * v.inner_stride + m * v.middle_stride + o * v.outer_stride, length};
    done += length;
  }
  return n;
}

// One panel; `n` channels are real, the rest become zero. Rows' channels are contiguous.
template <class T, class In>
inline void pack_channels(const In* p, int64_t row_stride, int rows, int n, Shifter<T>& shifter, T* out) {
  for (int r = 0; r < rows; ++r, p += row_stride, out += kPanel) {
    if constexpr (sizeof(In) == sizeof(T))
      if (n == kPanel) {
        shifter.row(reinterpret_cast<const T*>(p), out);
        continue;
      }
    alignas(64) T raw[kPanel];
    if (n == kPanel)
      load_panel(p, raw);
    else
      load_some(p, n, raw);
    shifter.row(raw, out);
  }
}

template <class T, class In>
inline void pack_strided(const In* p, int64_t row_stride, int64_t channel_stride, int rows, int n, Shifter<T>& shifter,
                         T* out) {
  for (int r = 0; r < rows; ++r) {
    alignas(64) T raw[kPanel];
    for (int c = 0; c < kPanel; ++c) raw[c] = c < n ? T(widen(p[r * row_stride + c * channel_stride])) : T(0);
    shifter.row(raw, out + r * kPanel);
  }
}

// One panel of a tile whose channels are planes of contiguous rows, as in NCHW. Short runs (small images) are first
// laid side by side, so that the transposition always works on sixteen rows.
template <class T, class In>
inline void pack_planes(const In* p, int64_t channel_stride, const Run* runs, int n_runs, int n, Shifter<T>& shifter,
                        T* out) {
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
        if (runs[k].length == kPanel)
          load_panel(q, side + c * 2 * kPanel);
        else
          load_some(q, runs[k].length, side + c * 2 * kPanel + rows);
      }
    transpose(static_cast<const T*>(side), 2 * kPanel, rows, shifter, out);
    out += rows * kPanel;
  }
}

template <class T, class In>
inline void pack_view(const View& v, const int64_t* kept, int64_t begin, int count, int64_t first_panel,
                      int64_t last_panel, const T* shift, T* packed, int64_t panel_stride, T* sums) {
  const In* data = static_cast<const In*>(v.data);
  Run runs[kTileRows];
  const int n_runs =
      kept ? find_kept_runs(v, kept + begin, count, kPanel, runs) : find_runs(v, begin, count, kPanel, runs);
  for (int64_t c = first_panel * kPanel; c < last_panel * kPanel; ++c) sums[c] = T(0);
  const auto real = [&](int64_t panel) {
    return v.channels - panel * kPanel < kPanel ? int(v.channels - panel * kPanel) : kPanel;
  };
  if (v.inner_stride == 1 && (v.channel_stride != 1 || v.channels == 1)) {
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      Shifter<T> shifter(shift + panel * kPanel, sums + panel * kPanel);
      pack_planes(data + panel * kPanel * v.channel_stride, v.channel_stride, runs, n_runs, real(panel), shifter,
                  packed + panel * panel_stride);
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
      if (v.channel_stride == 1)
        pack_channels(p, v.inner_stride, runs[k].length, real(panel), shifter, out);
      else
        pack_strided(p, v.inner_stride, v.channel_stride, runs[k].length, real(panel), shifter, out);
      shifter.store(sums + panel * kPanel);
    }
}

template <class T>
void pack(const View& v, const int64_t* kept, int64_t begin, int count, int64_t first_panel, int64_t last_panel,
          const T* shift, T* packed, int64_t panel_stride, T* sums) {
  switch (v.dtype) {
    case Dtype::float16:
      return pack_view<T, Half>(v, kept, begin, count, first_panel, last_panel, shift, packed, panel_stride, sums);
    case Dtype::bfloat16:
      return pack_view<T, Bfloat>(v, kept, begin, count, first_panel, last_panel, shift, packed, panel_stride, sums);
    case Dtype::float64:
      return pack_view<T, double>(v, kept, begin, count, first_panel, last_panel, shift, packed, panel_stride, sums);
    default:
      return pack_view<T, float>(v, kept, begin, count, first_panel, last_panel, shift, packed, panel_stride, sums);
  }
}

}  // namespace
}  // namespace prunecca::cpu
