// Splits the concatenation of several tensors into equal parts, one per thread: a network's largest layer
// may hold most of its weights, so whole tensors would leave threads idle.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace prunecca::cpu {

template <class Item> int64_t total_size(const std::vector<Item>& items) {
  int64_t total = 0;
  for (const Item& item : items) total += item.size;
  return total;
}

// Threads worth starting for this many elements: waking one costs about as much as 16k elements.
inline int useful_threads(int64_t total, int threads) {
  return static_cast<int>(std::clamp<int64_t>(total >> 14, 1, std::max(threads, 1)));
}

// Calls body(item, begin, end, offset of the item in the concatenation) for each piece of one part, in order.
template <class Item, class Body> void for_part(const std::vector<Item>& items, int part, int parts, Body&& body) {
  const int64_t total = total_size(items), first = total / parts * part + std::min<int64_t>(total % parts, part);
  const int64_t last = first + total / parts + (part < total % parts);
  int64_t offset = 0;
  for (const Item& item : items) {
    const int64_t begin = std::max<int64_t>(first - offset, 0), end = std::min(last - offset, item.size);
    if (begin < end) body(item, begin, end, offset);
    offset += item.size;
  }
}

}  // namespace prunecca::cpu
