// Masks act on tensors: one byte per element, 0 pruned, 1 kept.
#pragma once
#include <cstdint>
#include <vector>

namespace prunecca::cpu {

struct Masked {
  void* out;            // may be `in`
  const void* in;
  const uint8_t* mask;
  int64_t size;         // elements
  int itemsize;         // 2, 4 or 8 bytes
};

// out = in where the mask is set, +0 elsewhere; whatever the value there, NaN and -0 included.
void masked_copy(const std::vector<Masked>& tensors, int threads);

struct Bytes { const uint8_t* data; int64_t size; };

std::vector<int64_t> count_kept(const std::vector<Bytes>& masks, int threads);

}  // namespace prunecca::cpu
