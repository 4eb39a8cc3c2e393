// What the selection of the lowest scores takes on both devices.
#pragma once
#include "array.hpp"

namespace prunecca {

struct Scores {
  const void* data;      // contiguous
  const uint8_t* alive;  // survivors so far; null: all
  uint8_t* mask;         // out; may be `alive`
  int64_t size;
  int pool = 0;  // tensors of one pool are neighbours, in the order that breaks ties
  std::array<const void*, 3> addresses() const { return {data, alive, mask}; }
};

enum class Order { magnitude, value };  // compare |score|, or the signed score; -0 equals +0 in both

}  // namespace prunecca
