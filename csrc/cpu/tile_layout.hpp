// Where the bfloat16 parts of a packed panel lie.
//
// A float32 is exactly the sum of three bfloat16 values, its parts: the first rounds it to 8 digits, the second what is
// left, the third is the rest. A panel is kept as float32 first (what norms are taken of), then for every 32 rows as
// tiles of 16 lines of 64 bytes, each part in two forms: with a line for each channel, 32 rows along it (the left factor
// of a tile product), and with a line for each pair of rows, 16 channels along it (the right factor).
#pragma once
#include <cstdint>

#include "cpu/covariance_kernel.hpp"

namespace prunecca::cpu {

constexpr int kTileSide = 16;                       // lines of a tile
constexpr int kTileFloats = kTileSide * kTileSide;  // of its kilobyte
constexpr int kStepRows = 32;                       // rows that one tile product adds up
constexpr int kSteps = kTileRows / kStepRows;       // of a packed panel
constexpr int kParts = 3;
constexpr int kTilesOfStep = kParts * 2;
static_assert(kPanel == kTileSide && kTileRows % kStepRows == 0 && kSteps <= kPanelPad * int(sizeof(float)));

// Floats that a panel of tiles takes for each that it takes otherwise: itself, and twice three halves.
constexpr int kFloatsOfEach = 4;

enum class Side { left, right };

namespace {  // each translation unit has its own copy, compiled for its own instruction set

constexpr int kPanelFloats = kTileRows * kPanel;

template <class Float> inline Float* tile_at(Float* panel, int step, Side side, int part) {
  return panel + kPanelFloats + ((step * 2 + int(side)) * kParts + part) * kTileFloats;
}
// How many of the parts of each step are not all zero, counted up to the last such; in the room between two panels.
inline uint8_t* parts_of(float* panel) { return reinterpret_cast<uint8_t*>(panel + kPanelFloats * kFloatsOfEach); }
inline const uint8_t* parts_of(const float* panel) {
  return reinterpret_cast<const uint8_t*>(panel + kPanelFloats * kFloatsOfEach);
}

}  // namespace
}  // namespace prunecca::cpu
