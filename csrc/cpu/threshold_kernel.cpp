#include "cpu/threshold_kernel.hpp"

#include <algorithm>

#include "cpu/threshold_flags.hpp"
#include "half.hpp"

namespace prunecca::cpu {
namespace {

template <class Word, Order order> inline Word key_of_bits(Word bits) {
  if constexpr (order == Order::magnitude) return bits << 1;
  constexpr Word sign = Word(1) << (8 * sizeof(Word) - 1);
  const Word plain = (bits << 1) == 0 ? Word(0) : bits;              // -0 is +0
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

  // mask = alive and key >= low, and visit(i) in order for each survivor with low <= key <= high.
  template <class Visit>
  static void cut_visiting(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, Word low, Word high,
                           Found& found, Visit&& visit) {
    alignas(64) uint8_t inside[kBlock] = {};
    int64_t survivors = 0, kept = 0;  // in registers: `found` may be what visit() writes to
    Word largest = 0;
    int64_t start = 0;
#if defined(__AVX2__)
    if constexpr (sizeof(Word) == 4) {
      Flagger<order == Order::value> flagger(low, high);
      for (; start + kFlagged <= n; start += kFlagged) {
        const uint8_t* live = alive ? alive + start : nullptr;
        uint32_t flags = flagger.flag(static_cast<const T*>(data) + start, live, mask + start);
        for (; flags; flags &= flags - 1) visit(start + __builtin_ctz(flags));
      }
      survivors = flagger.survivors, kept = flagger.kept, largest = flagger.largest();
    }
#endif
    for (; start < n; start += kBlock) {
      const int64_t length = n - start < kBlock ? n - start : kBlock;
      const uint8_t* live = alive ? alive + start : nullptr;
      if (length == kBlock) {
        largest = flag<kBlock>(data, live, mask + start, start, kBlock, low, high - low, inside, largest);
      } else {
        for (uint8_t& flag : inside) flag = 0;
        largest = flag<1>(data, live, mask + start, start, length, low, high - low, inside, largest);
      }
      survivors += live ? ones(live, length) : length;
      kept += ones(mask + start, length);
      for (int64_t j = 0; j < kBlock; j += 8)
        for (uint64_t flags = word_at(inside + j); flags; flags &= flags - 1)
          visit(start + j + (__builtin_ctzll(flags) >> 3));
    }
    found.survivors += survivors;
    found.kept += kept;
    found.maybe_nan |= largest > kInfinity;
  }

  static constexpr Word kInfinity = (sizeof(Word) == 8 ? Word(0x7ff) << 52 : Word(0xff) << 23)
                                    << 1;  // without the sign

  // Eight bytes of 0 or 1, the first one lowest.
  static uint64_t word_at(const uint8_t* flags) {
    uint64_t word;
    __builtin_memcpy(&word, flags, 8);
    return word;
  }
  static int64_t ones(const uint8_t* flags, int64_t length) {
    int64_t sum = 0, i = 0;
    for (; i + 8 <= length; i += 8) sum += int64_t((word_at(flags + i) * 0x0101010101010101u) >> 56);
    for (; i < length; ++i) sum += flags[i];
    return sum;
  }

  // kMultiple divides length: a promise that lets the compiler drop the remainder loop. Returns the larger of `largest`
  // and the largest magnitude, as bits without the sign, whether they survive or not.
  template <int64_t kMultiple>
  static Word flag(const void* data, const uint8_t* alive, uint8_t* mask, int64_t start, int64_t length, Word low,
                   Word width, uint8_t* inside, Word largest) {
    length = length / kMultiple * kMultiple;
    if (alive) {
#pragma omp simd reduction(max : largest)
      for (int64_t j = 0; j < length; ++j) {
        const Word bits = Source<T>::bits(data, start + j), k = key_of_bits<Word, order>(bits);
        largest = std::max(largest, Word(bits << 1));
        inside[j] = alive[j] & uint8_t(Word(k - low) <= width);
        mask[j] = alive[j] & uint8_t(k >= low);
      }
    } else {
#pragma omp simd reduction(max : largest)
      for (int64_t j = 0; j < length; ++j) {
        const Word bits = Source<T>::bits(data, start + j), k = key_of_bits<Word, order>(bits);
        largest = std::max(largest, Word(bits << 1));
        inside[j] = uint8_t(Word(k - low) <= width);
        mask[j] = uint8_t(k >= low);
      }
    }
    return largest;
  }

  static int64_t cut_ties(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, int shift, uint64_t prefix,
                          int64_t quota) {
    int64_t used = 0;
    Found found;
    cut_visiting(data, alive, mask, n, Word(prefix << shift), Word(last_of(prefix, shift)), found, [&](int64_t i) {
      if (used < quota) mask[i] = 0, ++used;
    });
    return used;
  }

  static uint64_t key_at(const void* data, int64_t i) { return key(data, i); }

  static void gather(const void* data, const uint8_t* alive, uint8_t* mask, int64_t n, uint64_t low, uint64_t high,
                     Found& found) {
    Found here = found;  // not through memory: a list might be where `found` is
    cut_visiting(data, alive, mask, n, Word(low), Word(high), found, [&](int64_t i) {
      if (here.listed < here.room) {
        here.keys[here.listed] = key(data, i);
        here.positions[here.listed] = here.offset + i;
      }
      ++here.listed;
    });
    found.listed = here.listed;
  }

  static ThresholdKernel table() { return {histogram, cut, cut_ties, key_at, gather}; }
};

template <class T> ThresholdKernel in_order(Order order) {
  return order == Order::magnitude ? Threshold<T, Order::magnitude>::table() : Threshold<T, Order::value>::table();
}

}  // namespace

ThresholdKernel threshold_kernel(ThisLevel, Dtype dtype, Order order) {
  switch (dtype) {
    case Dtype::float64: return in_order<double>(order);
    case Dtype::float16: return in_order<Half>(order);
    case Dtype::bfloat16: return in_order<Bfloat>(order);
    default: return in_order<float>(order);
  }
}

}  // namespace prunecca::cpu
