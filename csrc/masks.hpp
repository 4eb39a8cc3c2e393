// Masks act on tensors: one byte per element, 0 pruned, 1 kept. What the kernels of both devices take.
#pragma once
#include "array.hpp"

namespace prunecca {

// out = in where the mask is set, +0 elsewhere; whatever the value there, NaN and -0 included.
struct Masked {
  void* out;  // may be `in`
  const void* in;
  const uint8_t* mask;
  int64_t size;  // elements
  int itemsize;  // 2, 4 or 8 bytes
  std::array<const void*, 3> addresses() const { return {out, in, mask}; }
};

// A mask whose set entries are counted.
struct Counted {
  const uint8_t* mask;
  int64_t size;
  std::array<const void*, 1> addresses() const { return {mask}; }
};

}  // namespace prunecca
