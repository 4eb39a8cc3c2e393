// The loops of the threshold selection over one contiguous piece; each SIMD level includes this file.
//
// A score becomes an unsigned key whose order is the order of the scores: float32 bits without the sign
// (magnitude), or with the sign folded in (value). Keys are taken apart from the top in digits of 12 bits.
#pragma once
#include <cstdint>

#include "array.hpp"
#include "cpu/half.hpp"
#include "cpu/threshold.hpp"

namespace prunecca::cpu {

struct Digit {
  int high;         // bits above `high` are known: they equal `prefix`
  int shift;        // this digit is the bits [shift, high)
  uint64_t prefix;
};

constexpr int kDigitBits = 12;
constexpr int64_t kBins = int64_t(1) << kDigitBits;

struct ThresholdKernel {
  // Adds the survivors of each digit to counts, two interleaved tables of kBins; n < 2^31.
  void (*histogram)(const void* data, const uint8_t* alive, int64_t n, Digit digit, uint32_t* counts);
  // mask = alive and key >> shift >= limit.
  void (*cut)(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, int shift, uint64_t limit);
  // As cut with limit = prefix; and the first `quota` survivors with key >> shift == prefix are cleared too.
  // Returns the quota used.
  int64_t (*cut_ties)(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, int shift, uint64_t prefix,
                      int64_t quota);
  // As cut with limit = prefix; and the keys and positions of survivors with key >> shift == prefix are
  // listed. Returns their number.
  int64_t (*gather)(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, int shift, uint64_t prefix,
                    uint64_t* keys, int64_t* positions);
};

ThresholdKernel threshold_baseline(Dtype dtype, Order order);
ThresholdKernel threshold_avx2(Dtype dtype, Order order);
ThresholdKernel threshold_avx512(Dtype dtype, Order order);

namespace {

template <class Word, Order order> inline Word key_of_bits(Word bits) {
  if constexpr (order == Order::magnitude) return bits << 1;
  constexpr Word sign = Word(1) << (8 * sizeof(Word) - 1);
  const Word plain = (bits << 1) == 0 ? Word(0) : bits;  // -0 is +0
  return plain ^ (Word(-(plain >> (8 * sizeof(Word) - 1))) | sign);  // negative: all bits flip
}

template <class T> struct Source;
template <> struct Source<float> {
  using Word = uint32_t;
  static Word bits(const void* data, int64_t i) { return static_cast<const uint32_t*>(data)[i]; }
};
template <> struct Source<double> {
  using Word = uint64_t;
  static Word bits(const void* data, int64_t i) { return static_cast<const uint64_t*>(data)[i]; }
};
template <> struct Source<Half> {
  using Word = uint32_t;
  static Word bits(const void* data, int64_t i) { return widened_bits(static_cast<const Half*>(data)[i]); }
};
template <> struct Source<Bfloat> {
  using Word = uint32_t;
  static Word bits(const void* data, int64_t i) { return widened_bits(static_cast<const Bfloat*>(data)[i]); }
};

constexpr int64_t kBlock = 256;

template <class T, Order order> struct Threshold {
  using Word = typename Source<T>::Word;
  static constexpr int kWidth = 8 * sizeof(Word);

  static Word key(const void* data, int64_t i) { return key_of_bits<Word, order>(Source<T>::bits(data, i)); }

  static void histogram(const void* data, const uint8_t* alive, int64_t n, Digit digit, uint32_t* counts) {
    if (digit.high == kWidth) {
      constexpr int shift = kWidth - kDigitBits;
      // Neighbours often fall into one bin; two tables keep an increment from waiting for the one before.
      int64_t i = 0;
      if (alive) {
        for (; i + 1 < n; i += 2) {
          counts[key(data, i) >> shift] += alive[i];
          counts[kBins + (key(data, i + 1) >> shift)] += alive[i + 1];
        }
        if (i < n) counts[key(data, i) >> shift] += alive[i];
      } else {
        for (; i + 1 < n; i += 2) {
          counts[key(data, i) >> shift] += 1;
          counts[kBins + (key(data, i + 1) >> shift)] += 1;
        }
        if (i < n) counts[key(data, i) >> shift] += 1;
      }
      return;
    }
    const Word low = (Word(1) << (digit.high - digit.shift)) - 1;
    for (int64_t i = 0; i < n; ++i) {
      const Word k = key(data, i);
      if ((k >> digit.high) == Word(digit.prefix) && (!alive || alive[i])) counts[(k >> digit.shift) & low] += 1;
    }
  }

  static void cut(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, int shift, uint64_t limit) {
    const Word bound = static_cast<Word>(limit);
    if (alive) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) mask[i] = alive[i] & uint8_t((key(data, i) >> shift) >= bound);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) mask[i] = uint8_t((key(data, i) >> shift) >= bound);
    }
  }

  // cut, and visit(i) in order for each survivor in the bin.
  template <class Visit>
  static void cut_visiting(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, int shift,
                           uint64_t prefix, Visit&& visit) {
    const Word bound = static_cast<Word>(prefix);
    alignas(64) uint8_t in_bin[kBlock] = {};
    for (int64_t start = 0; start < n; start += kBlock) {
      if (n - start >= kBlock) {
        flag<kBlock>(data, alive, mask, start, kBlock, shift, bound, in_bin);
      } else {
        for (uint8_t& flag : in_bin) flag = 0;
        flag<1>(data, alive, mask, start, n - start, shift, bound, in_bin);
      }
      for (int64_t j = 0; j < kBlock; j += 8) {
        uint64_t flags;  // one 0 or 1 byte per element, the first one lowest
        __builtin_memcpy(&flags, in_bin + j, 8);
        for (; flags; flags &= flags - 1) visit(start + j + (__builtin_ctzll(flags) >> 3));
      }
    }
  }

  // kMultiple divides length: a promise that lets the compiler drop the remainder loop.
  template <int64_t kMultiple>
  static void flag(const void* data, const uint8_t* alive, uint8_t* mask, int64_t start, int64_t length, int shift,
                   Word bound, uint8_t* in_bin) {
    length = length / kMultiple * kMultiple;
    if (alive) {
#pragma omp simd
      for (int64_t j = 0; j < length; ++j) {
        const Word top = key(data, start + j) >> shift;
        const uint8_t live = alive[start + j];
        in_bin[j] = live & uint8_t(top == bound);
        mask[start + j] = live & uint8_t(top >= bound);
      }
    } else {
#pragma omp simd
      for (int64_t j = 0; j < length; ++j) {
        const Word top = key(data, start + j) >> shift;
        in_bin[j] = uint8_t(top == bound);
        mask[start + j] = uint8_t(top >= bound);
      }
    }
  }

  static int64_t cut_ties(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, int shift,
                          uint64_t prefix, int64_t quota) {
    int64_t used = 0;
    cut_visiting(data, alive, mask, n, shift, prefix, [&](int64_t i) {
      if (used < quota) mask[i] = 0, ++used;
    });
    return used;
  }

  static int64_t gather(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, int shift, uint64_t prefix,
                        uint64_t* keys, int64_t* positions) {
    int64_t found = 0;
    cut_visiting(data, alive, mask, n, shift, prefix, [&](int64_t i) {
      keys[found] = key(data, i);
      positions[found++] = i;
    });
    return found;
  }

  static ThresholdKernel table() { return {histogram, cut, cut_ties, gather}; }
};

template <class T> ThresholdKernel in_order(Order order) {
  return order == Order::magnitude ? Threshold<T, Order::magnitude>::table() : Threshold<T, Order::value>::table();
}

ThresholdKernel kernel_for(Dtype dtype, Order order) {
  switch (dtype) {
    case Dtype::float64: return in_order<double>(order);
    case Dtype::float16: return in_order<Half>(order);
    case Dtype::bfloat16: return in_order<Bfloat>(order);
    default: return in_order<float>(order);
  }
}

}  // namespace
}  // namespace prunecca::cpu
