#include "cpu/augmentation.hpp"

#include <omp.h>

#include <algorithm>

namespace prunecca::cpu {
namespace {

// Up to four channels of one pixel travel as one vector, so that a bilinear tap is one load, and the coordinates of
// four pixels as another. Four lanes are what every instruction set has: more would not fit the channels of an image.
constexpr int64_t kLanes = 4;
typedef float Lanes __attribute__((vector_size(16)));
typedef float LooseLanes __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Indices __attribute__((vector_size(16)));

// An image with a border of zeros, one pixel before and two after: coordinates clamped to [-1, size] then need no
// test for the border, and what lies outside counts as zero.
constexpr int64_t kBefore = 1, kBorder = 3;

// Positions of four pixels in the bordered image along one axis: the whole pixel before them, and the part beyond it.
struct Positions {
  Indices whole;
  Lanes part;
};

inline Positions clamped(Lanes coordinates, float size) {
  const Lanes low = {}, high = low + (size + kBefore);
  Lanes c = coordinates + static_cast<float>(kBefore);
  c = c > low ? c : low;  // NaN too
  c = c < high ? c : high;
  const Indices whole = __builtin_convertvector(c, Indices);
  return {whole, c - __builtin_convertvector(whole, Lanes)};
}

// Up to kLanes channels of one image, normalised, pixel by pixel, inside its border.
void interleave(const Warp& w, const uint8_t* image, int64_t first, int64_t channels, float* padded) {
  const int64_t row_length = (w.width + kBorder) * kLanes, plane = w.height * w.width;
  Lanes scale = {}, offset = {};
  for (int64_t c = 0; c < channels; ++c) {
    scale[c] = w.scale[first + c];
    offset[c] = w.offset[first + c];
  }
  const auto fill = [&](float* from, int64_t pixels) {
    for (int64_t i = 0; i < pixels; ++i) *reinterpret_cast<LooseLanes*>(from + i * kLanes) = offset;
  };
  fill(padded, w.width + kBorder);
  const uint8_t* source[kLanes];
  for (int64_t c = 0; c < kLanes; ++c) source[c] = image + (first + std::min(c, channels - 1)) * plane;
  for (int64_t y = 0; y < w.height; ++y) {
    float* row = padded + (y + kBefore) * row_length;
    fill(row, kBefore);
    row += kBefore * kLanes;
    for (int64_t x = 0; x < w.width; ++x, row += kLanes) {
      const int64_t i = y * w.width + x;
      const Indices values = {source[0][i], source[1][i], source[2][i], source[3][i]};
      *reinterpret_cast<LooseLanes*>(row) = __builtin_convertvector(values, Lanes) * scale + offset;
    }
    fill(row, kBorder - kBefore);
  }
  fill(padded + (w.height + kBefore) * row_length, (w.width + kBorder) * (kBorder - kBefore));
}

// kInterleaved: the channels of an output pixel lie side by side, and so do its pixels (channels_last).
template <int kChannels, bool kInterleaved>
void resample(const Warp& w, const float* padded, const float* map, float* output) {
  const int64_t row_length = w.width + kBorder;
  const auto width = static_cast<float>(w.width), height = static_cast<float>(w.height);
  for (int64_t y = 0; y < w.height; ++y) {
    const float base_x = map[1] * static_cast<float>(y) + map[2], base_y = map[4] * static_cast<float>(y) + map[5];
    float* row = output + y * w.output_row;
    for (int64_t x = 0; x < w.width; x += kLanes) {
      const Lanes columns = Lanes{0, 1, 2, 3} + static_cast<float>(x);
      const Positions across = clamped(map[0] * columns + base_x, width),
                      down = clamped(map[3] * columns + base_y, height);
      const int64_t pixels = std::min(kLanes, w.width - x);
      for (int64_t i = 0; i < pixels; ++i) {
        const auto* upper = reinterpret_cast<const LooseLanes*>(padded) + down.whole[i] * row_length + across.whole[i];
        const auto* lower = upper + row_length;
        const Lanes top = upper[0] + across.part[i] * (upper[1] - upper[0]);
        const Lanes bottom = lower[0] + across.part[i] * (lower[1] - lower[0]);
        const Lanes value = top + down.part[i] * (bottom - top);
        float* target = row + (x + i) * w.output_column;
        if (kInterleaved && x + i + 1 < w.width) {
          *reinterpret_cast<LooseLanes*>(target) = value;  // what it spills over the next pixel is written after it
        } else {
          for (int c = 0; c < kChannels; ++c) target[c * w.output_channel] = value[c];
        }
      }
    }
  }
}

template <int kChannels> void resample(const Warp& w, const float* padded, const float* map, float* output) {
  const bool interleaved = w.channels == kChannels && w.output_channel == 1 && w.output_column == kChannels;
  // A spill of more than the next pixel would reach beyond the row.
  if (interleaved && 2 * kChannels >= kLanes)
    resample<kChannels, true>(w, padded, map, output);
  else
    resample<kChannels, false>(w, padded, map, output);
}

void one_image(const Warp& w, int64_t i, float* padded) {
  const uint8_t* image = w.images + w.index[i] * w.channels * w.height * w.width;
  const float* map = w.maps + i * 6;
  for (int64_t first = 0; first < w.channels; first += kLanes) {
    const int64_t channels = std::min(kLanes, w.channels - first);
    interleave(w, image, first, channels, padded);
    float* output = w.output + i * w.output_image + first * w.output_channel;
    switch (channels) {
      case 1: resample<1>(w, padded, map, output); break;
      case 2: resample<2>(w, padded, map, output); break;
      case 3: resample<3>(w, padded, map, output); break;
      default: resample<4>(w, padded, map, output);
    }
  }
}

}  // namespace

int64_t warp_workspace(int64_t height, int64_t width) { return (height + kBorder) * (width + kBorder) * kLanes; }

void warp(const Warp& w) {
  const int64_t each = warp_workspace(w.height, w.width);
#pragma omp parallel num_threads(w.threads)
  {
    float* padded = w.workspace + each * omp_get_thread_num();
#pragma omp for schedule(static)
    for (int64_t i = 0; i < w.count; ++i) one_image(w, i, padded);
  }
}

}  // namespace prunecca::cpu
