// Masks act on tensors: one byte per element, 0 pruned, 1 kept. Each function is one launch for all tensors given
// (one per 420 of them).
#pragma once
#include <array>
#include <vector>

#include "cuda/platform.cuh"

namespace prunecca::cuda {

struct Masked {
  void* out;  // may be `in`
  const void* in;
  const uint8_t* mask;
  int64_t size;  // elements
  std::array<const void*, 3> addresses() const { return {out, in, mask}; }
};

// out = in where the mask is set, +0 elsewhere; whatever the value there, NaN and -0 included. Elements of 2, 4 or 8
// bytes. In place, only memory that the mask changes is touched.
cudaError_t masked_copy(const std::vector<Masked>& tensors, int itemsize, cudaStream_t stream);

struct Counted {
  const uint8_t* mask;
  int64_t size;
  std::array<const void*, 1> addresses() const { return {mask}; }
};

// kept[i] = how many entries of mask i are set; kept: device memory.
cudaError_t count_kept(const std::vector<Counted>& masks, int64_t* kept, cudaStream_t stream);

struct Packed {
  uint8_t* mask;
  uint8_t* bits;  // (size + 7) / 8 bytes; element i is bit i % 8 of byte i / 8, unused bits are 0
  int64_t size;
  std::array<const void*, 2> addresses() const { return {mask, bits}; }
};

cudaError_t pack_masks(const std::vector<Packed>& masks, cudaStream_t stream);    // bits from masks
cudaError_t unpack_masks(const std::vector<Packed>& masks, cudaStream_t stream);  // masks from bits

}  // namespace prunecca::cuda
