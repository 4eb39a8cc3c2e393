// One pass from stored images to a batch of augmented, normalised ones: gather, affine resampling, normalisation.
#pragma once
#include <cstdint>

namespace prunecca::cpu {

struct Warp {
  const uint8_t* images;  // (stored, channels, height, width), contiguous
  const int64_t* index;   // (count): which stored image each output image is made of
  const float* maps;      // (count, 2, 3): output pixel (column, row, 1) -> input (column, row), in pixels
  const float* scale;     // (channels): output = value * scale + offset
  const float* offset;
  float* output;  // (count, channels, height, width), strides in elements below
  int64_t output_image, output_channel, output_row, output_column;
  int64_t count, channels, height, width;
  float* workspace;  // threads * warp_workspace(height, width) floats
  int threads;
};

int64_t warp_workspace(int64_t height, int64_t width);

// Bilinear; everything outside of an image counts as value 0.
void warp(const Warp&);

}  // namespace prunecca::cpu
