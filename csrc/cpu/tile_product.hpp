// Products of panels on tiles. `Tiles` are the instructions, or what stands in for them: eight tiles of 16 lines of 64
// bytes.
#pragma once
#include <utility>

#include "cpu/tile_instructions.hpp"
#include "cpu/tile_split.hpp"

namespace prunecca::cpu {
namespace {  // each translation unit has its own copy, compiled for its own instruction set

constexpr int kColumns = 4;             // panels of B at once, each with a tile of sums (tiles 0 to 3)
constexpr int kLeft = kColumns;         // tiles 4 to 6: the parts of A
constexpr int kRight = kLeft + kParts;  // tile 7: a part of B

struct Columns {
  const float* panel;
  int64_t stride;
  const float* at(int n) const { return panel + n * stride; }
};

// The first part of panel n of B with that of A.
template <class Tiles, int n> inline void multiply_first(const Columns& b, int step) {
  if (!parts_of(b.at(n))[step]) return;
  Tiles::template load<kRight>(tile_at(b.at(n), step, Side::right, 0));
  Tiles::template multiply<n, kLeft, kRight>();
}

// Part `part` of panel n of B with the parts of A, but for the first of both: of the nine products of two values, those
// whose parts count up to no more than two. The others are 2^-25 of the value at most, and of either sign.
template <class Tiles, int part, int n> inline void multiply_part(const Columns& b, int step, int parts_of_a) {
  if (part >= parts_of(b.at(n))[step] || (part == 0 && parts_of_a < 2)) return;
  Tiles::template load<kRight>(tile_at(b.at(n), step, Side::right, part));
  if constexpr (part == 0)
    if (parts_of_a > 2) Tiles::template multiply<n, kLeft + 2, kRight>();
  if constexpr (part <= 1)
    if (parts_of_a > 1) Tiles::template multiply<n, kLeft + 1, kRight>();
  if constexpr (part > 0) Tiles::template multiply<n, kLeft, kRight>();
}

// Small products come first, of all rows, so that the sums are rounded to their full size only once for every step. The
// tiles of sums take turns, as none can take the next product before it has the last.
template <class Tiles, int... n>
inline void multiply_columns(const float* a, const Columns& b, int rows, double* blocks, bool add, Prefetch* next,
                             std::integer_sequence<int, n...>) {
  constexpr int kWide = int(sizeof...(n));
  const auto ask = [&] {
    for (int i = 0; next && i < kWide * kStepRows / kPrefetchRows / 2; ++i) next->some();
  };
  (Tiles::template zero<n>(), ...);
  for (int step = 0; step * kStepRows < rows; ++step) {
    ask();
    const int parts = parts_of(a)[step];
    if (parts == 0 || (parts == 1 && ((parts_of(b.at(n))[step] <= 1) && ...))) continue;
    Tiles::template load<kLeft>(tile_at(a, step, Side::left, 0));
    if (parts > 1) Tiles::template load<kLeft + 1>(tile_at(a, step, Side::left, 1));
    if (parts > 2) Tiles::template load<kLeft + 2>(tile_at(a, step, Side::left, 2));
    (multiply_part<Tiles, 2, n>(b, step, parts), ...);
    (multiply_part<Tiles, 1, n>(b, step, parts), ...);
    (multiply_part<Tiles, 0, n>(b, step, parts), ...);
  }
  for (int step = 0; step * kStepRows < rows; ++step) {
    ask();
    if (!parts_of(a)[step]) continue;
    Tiles::template load<kLeft>(tile_at(a, step, Side::left, 0));
    (multiply_first<Tiles, n>(b, step), ...);
  }
  alignas(64) float sums[kWide][kTileFloats];
  (Tiles::template store<n>(sums[n]), ...);
  for (int q = 0; q < kWide; ++q, blocks += kTileFloats)
    if (add)
      for (int i = 0; i < kTileFloats; ++i) blocks[i] += double(sums[q][i]);
    else
      for (int i = 0; i < kTileFloats; ++i) blocks[i] = double(sums[q][i]);
}

// One panel of A times `n` panels of B. A tile product adds up 32 rows before it joins the sums, whatever `chunk` says.
template <class Tiles>
void multiply_on_tiles(const float* a, const float* b, int64_t panel_stride, int rows, int, int n, bool, int64_t,
                       double* blocks, bool add, Prefetch* next) {
  const typename Tiles::InUse in_use;
  for (int q = 0; q < n;) {
    // Five are three and two: a single tile of sums would wait for itself.
    const int left = n - q, wide = left == kColumns + 1 ? kColumns - 1 : left < kColumns ? left : kColumns;
    const Columns columns{b + q * panel_stride, panel_stride};
    double* to = blocks + q * kTileFloats;
    const auto run = [&](auto which) { multiply_columns<Tiles>(a, columns, rows, to, add, next, which); };
    switch (wide) {
      case 1: run(std::make_integer_sequence<int, 1>{}); break;
      case 2: run(std::make_integer_sequence<int, 2>{}); break;
      case 3: run(std::make_integer_sequence<int, 3>{}); break;
      default: run(std::make_integer_sequence<int, kColumns>{});
    }
    q += wide;
  }
}

// As the vectors pack, then split.
template <class Tiles>
void pack_tiles(const View& view, const int64_t* kept, int64_t begin, int count, int64_t first_panel,
                int64_t last_panel, const float* shift, float* packed, int64_t panel_stride, float* sums) {
  Tiles::by_vectors().pack(view, kept, begin, count, first_panel, last_panel, shift, packed, panel_stride, sums);
  for (int64_t p = first_panel; p < last_panel; ++p) split_panel(packed + p * panel_stride, count, sums + p * kPanel);
}

template <class Tiles> Kernels<float> kernel_on_tiles() {
  Kernels<float> kernel = Tiles::by_vectors();
  kernel.pack = &pack_tiles<Tiles>;
  kernel.multiply = &multiply_on_tiles<Tiles>;
  kernel.passes = 1;
  kernel.size = kFloatsOfEach;
  return kernel;
}

}  // namespace
}  // namespace prunecca::cpu
