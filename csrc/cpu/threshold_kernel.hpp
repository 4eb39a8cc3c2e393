// The loops of the threshold selection over one contiguous piece: what each SIMD level provides.
//
// A score becomes an unsigned key whose order is the order of the scores: float32 bits without the sign
// (magnitude), or with the sign folded in (value). Keys are taken apart from the top in digits of 12 bits.
#pragma once
#include <cstdint>

#include "../threshold.hpp"
#include "cpu/simd_level.hpp"

namespace prunecca::cpu {

struct Digit {
  int high;   // bits above `high` are known: they equal `prefix`
  int shift;  // this digit is the bits [shift, high)
  uint64_t prefix;
};

constexpr int kDigitBits = 12;
constexpr int64_t kBins = int64_t(1) << kDigitBits;

struct Found;

struct ThresholdKernel {
  // Adds the survivors of each digit to counts, two interleaved tables of kBins; n < 2^31.
  void (*histogram)(const void* data, const uint8_t* alive, int64_t n, Digit digit, uint32_t* counts);
  // mask = alive and key >> shift >= limit.
  void (*cut)(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, int shift, uint64_t limit);
  // As cut with limit = prefix; and the first `quota` survivors with key >> shift == prefix are cleared too.
  // Returns the quota used.
  int64_t (*cut_ties)(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, int shift, uint64_t prefix,
                      int64_t quota);
  // The key of one score.
  uint64_t (*key)(const void* data, int64_t i);
  // mask = alive and key >= low; lists the keys and positions of survivors with low <= key <= high, while there is
  // room.
  void (*gather)(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, uint64_t low, uint64_t high,
                 Found& found);
};

// What a pass over the scores met: counts grow from piece to piece, and so do the lists.
struct Found {
  int64_t survivors = 0, kept = 0;  // before and after
  bool maybe_nan = false;           // somewhere, at a survivor or not
  int64_t room = 0, listed = 0;     // of the lists; listed counts on when they are full
  uint64_t* keys = nullptr;
  int64_t* positions = nullptr;  // each the position in its piece, plus `offset`
  int64_t offset = 0;
};

namespace {  // each translation unit has its own copy, compiled for its own instruction set

// The last key of the bin of keys with key >> shift == prefix.
inline uint64_t last_of(uint64_t prefix, int shift) { return (prefix << shift) | ((uint64_t(1) << shift) - 1); }

}  // namespace

#define PRUNECCA_LEVEL(name, runs) ThresholdKernel threshold_kernel(AtLevel<SimdLevel::name>, Dtype dtype, Order order);
PRUNECCA_SIMD_LEVELS(PRUNECCA_LEVEL)
#undef PRUNECCA_LEVEL

}  // namespace prunecca::cpu
