// Splitting: the float32 rows of a packed panel as tiles of bfloat16 parts.
#pragma once
#include <cstring>
#include <limits>

#include "cpu/tile_layout.hpp"

namespace prunecca::cpu {
namespace {  // each translation unit has its own copy, compiled for its own instruction set

// One line of a tile, whatever registers it takes.
typedef uint32_t Line __attribute__((vector_size(64)));
typedef float FloatLine __attribute__((vector_size(64)));

// Elements of two lines by their numbers, those of b from 16 on. GCC has the builtin of Clang from version 12 on only.
template <uint32_t... I> Line shuffled(const Line& a, const Line& b) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, I...);
#else
  return __builtin_shuffle(a, b, Line{I...});
#endif
}

// Line i of the result holds element i of each line. Four times, the lines of the upper half are dealt among those of
// the lower.
inline void transpose_lines(Line* lines) {
  for (int round = 0; round < 4; ++round) {
    Line dealt[kTileSide];
#pragma GCC unroll 8
    for (int i = 0; i < kTileSide / 2; ++i) {
      const Line a = lines[i], b = lines[i + kTileSide / 2];
      dealt[2 * i] = shuffled<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(a, b);
      dealt[2 * i + 1] = shuffled<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(a, b);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kTileSide; ++i) lines[i] = dealt[i];
  }
}

// The next part of each value, in the upper half of its bits: rounded to the nearest, which leaves the rest exact, and
// as often too large as too small.
inline void take_part(FloatLine& rest, Line& part) {
  part = (__builtin_bit_cast(Line, rest) + 0x8000u) & 0xffff0000u;
  rest -= __builtin_bit_cast(FloatLine, part);
}

inline bool is_zero(const Line& values) {
  Line line = values & 0x7fff7fffu;  // of either sign
  line |= shuffled<8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7>(line, line);
  line |= shuffled<4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11>(line, line);
  line |= shuffled<2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13>(line, line);
  return !(line[0] | line[1]);
}

// Magnitudes (bits without the sign, doubled) within which a channel's largest value of a tile must lie for its
// products to be exact enough: tiles take what is below 2^-126 for zero, numbers as well as products and sums. With one
// value of 2^-44, so many rows and six products, that is 2^-27 of its square at most. Above 2^59, the squares of a tile
// may not be finite.
constexpr uint32_t kLeast = uint32_t(127 - 44) << 24, kMost = uint32_t(127 + 59) << 24;

// Splits `rows` rows of a panel; sums of channels whose products tiles cannot promise become NaN.
inline void split_panel(float* panel, int rows, float* sums) {
  Line largest = {};
  uint8_t* const counts = parts_of(panel);
  for (int step = 0; step * kStepRows < rows; ++step) {
    Line lines[kParts][kTileSide], any[kParts] = {};
#pragma GCC unroll 1
    for (int pair = 0; pair < kTileSide; ++pair) {
      FloatLine rest[2] = {};
      for (int i = 0; i < 2; ++i) {
        const int row = step * kStepRows + 2 * pair + i;
        if (row < rows) std::memcpy(&rest[i], panel + row * kPanel, sizeof rest[i]);
        const Line size = __builtin_bit_cast(Line, rest[i]) << 1;
        largest = size > largest ? size : largest;
      }
#pragma GCC unroll 3
      for (int part = 0; part < kParts; ++part) {
        Line first, second;
        take_part(rest[0], first);
        take_part(rest[1], second);
        any[part] |= lines[part][pair] = first >> 16 | second;
      }
    }
    counts[step] = uint8_t(!is_zero(any[2]) ? 3 : !is_zero(any[1]) ? 2 : !is_zero(any[0]));
    for (int part = 0; part < counts[step]; ++part) {
      std::memcpy(tile_at(panel, step, Side::right, part), lines[part], sizeof lines[part]);
      transpose_lines(lines[part]);
      std::memcpy(tile_at(panel, step, Side::left, part), lines[part], sizeof lines[part]);
    }
  }
  for (int c = 0; c < kPanel; ++c)
    if (largest[c] != 0 && (largest[c] < kLeast || largest[c] >= kMost))
      sums[c] = std::numeric_limits<float>::quiet_NaN();
}

}  // namespace
}  // namespace prunecca::cpu
