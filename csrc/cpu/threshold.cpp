#include "cpu/threshold.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <optional>

#include "check.hpp"
#include "cpu/thread_parts.hpp"
#include "cpu/threshold_kernel.hpp"

namespace prunecca::cpu {

namespace {

constexpr int64_t kFewestSampled = 1 << 22;  // scores: for fewer the histogram is as fast
constexpr int64_t kFewest = 1 << 10;         // sampled survivors
constexpr double kRoom = 4;                  // times as many as are expected can be listed

ThresholdKernel chosen_kernel(Dtype dtype, Order order) {
  return at_simd_level([&](auto level) { return threshold_kernel(level, dtype, order); });
}

// What is known of the count-th lowest key so far: `below` survivors lie under the bin, `inside` in it.
struct Bin {
  Digit digit;
  uint64_t prefix = 0;  // the bin: keys with key >> digit.shift == prefix
  int64_t wanted = 0;   // how many of the bin are to be cleared
  int64_t inside = 0;
  std::vector<int64_t> inside_per_part;
};

class Selection {
 public:
  Selection(const std::vector<Scores>& pool, Dtype dtype, Order order, int threads)
      : pool_(pool),
        kernel_(chosen_kernel(dtype, order)),
        dtype_(dtype),
        order_(order),
        size_(size_of(dtype)),
        width_(dtype == Dtype::float64 ? 64 : 32),
        parts_(useful_threads(total_size(pool), threads)) {}

  // Counts one digit of all survivors within the known prefix and goes to the bin of the wanted-th lowest.
  // first: of the whole pool, whose survivors are then checked against `wanted`.
  Bin next(const Bin* known, int64_t wanted) {
    Bin bin;
    bin.digit.high = known ? known->digit.shift : width_;
    bin.digit.shift = std::max(bin.digit.high - kDigitBits, 0);
    bin.digit.prefix = known ? known->prefix : 0;
    const auto counts = histogram(bin.digit);
    if (!known) {
      int64_t survivors = 0;
      for (int64_t b = 0; b < kBins; ++b) survivors += sum(counts, b);
      maybe_nan_ = suspicious(counts);
      check_enough(wanted, survivors);
    }
    int64_t b = 0;
    for (; b < kBins - 1; ++b) {
      const int64_t here = sum(counts, b);
      if (wanted <= here) break;
      wanted -= here;
    }
    bin.prefix = (bin.digit.prefix << (bin.digit.high - bin.digit.shift)) | uint64_t(b);
    bin.wanted = wanted;
    bin.inside = sum(counts, b);
    for (const auto& part : counts) bin.inside_per_part.push_back(part[b]);
    return bin;
  }

  // The first tensor with a NaN at a survivor, or -1. Only looked for where a pass left it possible.
  int64_t first_nan() const {
    if (!maybe_nan_) return -1;
    for (size_t t = 0; t < pool_.size(); ++t)
      for (int64_t i = 0; i < pool_[t].size; ++i)
        if ((!pool_[t].alive || pool_[t].alive[i]) && is_nan(pool_[t].data, i)) return static_cast<int64_t>(t);
    return -1;
  }

  // Clears everything below `limit` (in units of the digit at `shift`).
  void cut(int shift, uint64_t limit) {
    each_part([&](int, const Scores& s, int64_t begin, int64_t end, int64_t) {
      kernel_.cut(at(s, begin), alive(s, begin), s.mask + begin, end - begin, shift, limit);
    });
  }

  // All keys in the bin are equal: the first ones in the concatenation go.
  void cut_ties(const Bin& bin) {
    std::vector<int64_t> quota = bin.inside_per_part;
    int64_t left = bin.wanted;
    for (int64_t& q : quota) left -= q = std::min(q, left);
    each_part([&](int part, const Scores& s, int64_t begin, int64_t end, int64_t) {
      quota[part] -= kernel_.cut_ties(at(s, begin), alive(s, begin), s.mask + begin, end - begin, bin.digit.shift,
                                      bin.prefix, quota[part]);
    });
  }

  // Lists the bin's keys and decides among them.
  void cut_listed(const Bin& bin) {
    const uint64_t low = bin.prefix << bin.digit.shift;
    const uint64_t high = last_of(bin.prefix, bin.digit.shift);
    clear_lowest(gather(low, high, bin.inside_per_part), bin.wanted, low, high);
  }

  // Most often in one pass: a sample tells between which keys the count-th lowest lies, and only those are listed.
  // False where it does not, or where too many are alike; the masks have then to be written again.
  bool cut_sampled(int64_t count) {
    const std::optional<Bracket> bracket = sample(count);
    if (!bracket) return false;
    const int64_t room = int64_t(kRoom * bracket->fraction * double(total_size(pool_))) / parts_ + kFewest;
    const Lists lists = gather(bracket->low, bracket->high, std::vector<int64_t>(parts_, room));
    int64_t survivors = 0, kept = 0, listed = 0;
    for (const Found& found : lists.found) {
      survivors += found.survivors, kept += found.kept, listed += found.listed;
      maybe_nan_ |= found.maybe_nan;
      if (found.listed > found.room) return false;
    }
    check_enough(count, survivors);
    const int64_t wanted = count - (survivors - kept);
    if (first_nan() >= 0) return true;
    if (wanted < 0 || wanted > listed) return false;
    clear_lowest(lists, wanted, bracket->low, bracket->high);
    return true;
  }

 private:
  using Counts = std::vector<std::vector<int64_t>>;  // per part, per bin

  struct Bracket {
    uint64_t low, high;
    double fraction;
  };  // keys, and how many of all scores lie between them

  struct Lists {  // per part
    std::vector<Found> found;
    std::vector<std::unique_ptr<uint64_t[]>> keys;
    std::vector<std::unique_ptr<int64_t[]>> positions;  // in the concatenation
  };

  void check_enough(int64_t wanted, int64_t survivors) const {
    PRUNECCA_CHECK(wanted <= survivors, "asked to prune ", wanted, " of ", survivors,
                   " survivors; expected at most as many as survive");
  }

  Lists gather(uint64_t low, uint64_t high, const std::vector<int64_t>& room) {
    Lists lists{std::vector<Found>(parts_), {}, {}};
    for (int part = 0; part < parts_; ++part) {  // left uninitialised: most of it is never touched
      lists.keys.emplace_back(new uint64_t[room[part]]);
      lists.positions.emplace_back(new int64_t[room[part]]);
    }
    each_part([&](int part, const Scores& s, int64_t begin, int64_t end, int64_t offset) {
      Found here = lists.found[part];  // a copy, so that threads do not write to one cache line
      here.room = room[part], here.keys = lists.keys[part].get(), here.positions = lists.positions[part].get();
      here.offset = offset + begin;
      kernel_.gather(at(s, begin), alive(s, begin), s.mask + begin, end - begin, low, high, here);
      lists.found[part] = here;
    });
    return lists;
  }

  struct Last {
    uint64_t key;
    int64_t before;  // how many lie below it
  };

  // The wanted-th lowest of the listed: equal parts of [low, high] are counted, and one part has it.
  static Last last_of_lowest(const Lists& lists, int64_t wanted, uint64_t low, uint64_t high) {
    int shift = 0;
    while ((high - low) >> shift >= kBins) ++shift;
    std::vector<int64_t> counts(kBins, 0);
    for (const Found& found : lists.found)
      for (int64_t j = 0; j < found.listed; ++j) ++counts[(found.keys[j] - low) >> shift];
    uint64_t part = 0;
    int64_t before = 0;
    for (; before + counts[part] < wanted; ++part) before += counts[part];
    std::vector<uint64_t> order;
    order.reserve(counts[part]);
    for (const Found& found : lists.found)
      std::copy_if(found.keys, found.keys + found.listed, std::back_inserter(order),
                   [&](uint64_t key) { return (key - low) >> shift == part; });
    const auto last = order.begin() + (wanted - before - 1);
    std::nth_element(order.begin(), last, order.end());
    return {*last, before + std::count_if(order.begin(), last, [&](uint64_t key) { return key < *last; })};
  }

  // Of the listed, which lie in [low, high], the `wanted` lowest go; of equal ones the first.
  void clear_lowest(const Lists& lists, int64_t wanted, uint64_t low, uint64_t high) {
    if (wanted == 0) return;
    const Last last = last_of_lowest(lists, wanted, low, high);
    int64_t ties = wanted - last.before;
    std::vector<int64_t> quota(parts_);
    for (int part = 0; part < parts_; ++part) {
      const Found& found = lists.found[part];
      quota[part] = std::min(ties, std::count(found.keys, found.keys + found.listed, last.key));
      ties -= quota[part];
    }
#pragma omp parallel for num_threads(parts_) schedule(static, 1)
    for (int part = 0; part < parts_; ++part) {
      const Found& found = lists.found[part];
      int64_t equal = quota[part], offset = 0;
      size_t tensor = 0;
      for (int64_t j = 0; j < found.listed; ++j) {
        while (found.positions[j] - offset >= pool_[tensor].size) offset += pool_[tensor++].size;
        // Written either way: about half of them go, which no branch predictor can tell.
        uint8_t left = found.keys[j] > last.key;
        if (found.keys[j] == last.key) left = equal-- <= 0;
        pool_[tensor].mask[found.positions[j] - offset] = left;
      }
    }
  }

  // Evenly spaced scores: as many as balance their cost against that of the list. The bracket is 3.3 standard
  // deviations of their ranks wide on either side: one guess in a thousand is wrong.
  std::optional<Bracket> sample(int64_t count) const {
    const int64_t total = total_size(pool_);
    if (total < kFewestSampled) return {};
    for (const Scores& s : pool_)
      if (s.mask == s.alive) return {};  // after a bad guess the survivors would not be known any more
    const int64_t step = std::max<int64_t>(1, int64_t(std::cbrt(double(total)) / 0.5)), size = total / step;
    std::vector<std::vector<uint64_t>> taken(parts_);
    each_part([&](int part, const Scores& s, int64_t begin, int64_t end, int64_t offset) {
      for (int64_t i = begin + (step - (offset + begin) % step) % step; i < end; i += step) {
        if (const int64_t ahead = i + 16 * step; ahead < end) {  // each lies in lines of its own
          __builtin_prefetch(at(s, ahead));
          if (s.alive) __builtin_prefetch(s.alive + ahead);
        }
        if (!s.alive || s.alive[i]) taken[part].push_back(kernel_.key(s.data, i));
      }
    });
    std::vector<uint64_t> keys;
    for (const auto& part : taken) keys.insert(keys.end(), part.begin(), part.end());
    const double drawn = double(keys.size()), alive = std::min(1.0, drawn / double(size));
    const double rank = double(count) / (alive * double(total)) * drawn;
    if (drawn < kFewest || rank > drawn) return {};
    const double spread = 3.3 * (std::sqrt(rank * (1 - rank / drawn)) + rank * std::sqrt((1 - alive) / drawn)) + 5;
    const auto key_at = [&](double place) {
      const auto it = keys.begin() + int64_t(place);
      std::nth_element(keys.begin(), it, keys.end());
      return *it;
    };
    Bracket out{0, width_ == 64 ? ~uint64_t(0) : 0xffffffffu, 2 * spread / drawn * alive};
    if (rank > spread) out.low = key_at(rank - spread);
    if (rank + spread < drawn) out.high = key_at(rank + spread);
    return out;
  }

  static int64_t sum(const Counts& counts, int64_t b) {
    int64_t n = 0;
    for (const auto& part : counts) n += part[b];
    return n;
  }

  template <class Body> void each_part(Body&& body) const {
    const int parts = parts_;
#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; ++part)
      for_part(pool_, part, parts,
               [&](const Scores& s, int64_t begin, int64_t end, int64_t offset) { body(part, s, begin, end, offset); });
  }

  Counts histogram(Digit digit) {
    Counts counts(parts_, std::vector<int64_t>(kBins, 0));
    std::vector<std::vector<uint32_t>> narrow(parts_, std::vector<uint32_t>(2 * kBins, 0));
    each_part([&](int part, const Scores& s, int64_t begin, int64_t end, int64_t) {
      constexpr int64_t kRun = int64_t(1) << 30;  // the narrow counters cannot overflow within a run
      while (begin < end) {
        const int64_t n = std::min(end - begin, kRun);
        kernel_.histogram(at(s, begin), alive(s, begin), n, digit, narrow[part].data());
        begin += n;
        for (int64_t b = 0; b < kBins; ++b) counts[part][b] += int64_t(narrow[part][b]) + narrow[part][kBins + b];
        std::fill(narrow[part].begin(), narrow[part].end(), 0);
      }
    });
    return counts;
  }

  // NaNs have the largest magnitudes: bins from that of infinity on, and in value order the lowest too.
  bool suspicious(const Counts& counts) const {
    const int64_t sign = order_ == Order::magnitude ? 0 : 1;
    const int64_t infinity =
        width_ == 64 ? (0x7ff0 >> (3 + sign)) | (sign << 11) : (0x7f80 >> (3 + sign)) | (sign << 11);
    for (int64_t b = infinity; b < kBins; ++b)
      if (sum(counts, b)) return true;
    if (order_ == Order::value)
      for (int64_t b = 0; b < kBins - infinity; ++b)
        if (sum(counts, b)) return true;
    return false;
  }

  bool is_nan(const void* data, int64_t i) const {
    switch (dtype_) {
      case Dtype::float64: return (static_cast<const uint64_t*>(data)[i] << 1) > (uint64_t(0x7ff) << 53);
      case Dtype::float32: return (static_cast<const uint32_t*>(data)[i] << 1) > 0xff000000u;
      case Dtype::float16: return (static_cast<const uint16_t*>(data)[i] & 0x7fff) > 0x7c00;
      default: return (static_cast<const uint16_t*>(data)[i] & 0x7fff) > 0x7f80;
    }
  }

  const void* at(const Scores& s, int64_t i) const { return static_cast<const char*>(s.data) + i * size_; }
  static const uint8_t* alive(const Scores& s, int64_t i) { return s.alive ? s.alive + i : nullptr; }

  const std::vector<Scores>& pool_;
  ThresholdKernel kernel_;
  Dtype dtype_;
  Order order_;
  int64_t size_;
  int width_;
  int parts_;
  bool maybe_nan_ = false;
};

}  // namespace

int64_t prune_lowest(const std::vector<Scores>& pool, Dtype dtype, Order order, int64_t count, int threads) {
  Selection selection(pool, dtype, order, threads);
  if (count > 0 && selection.cut_sampled(count)) return selection.first_nan();
  Bin bin = selection.next(nullptr, count);
  const int64_t nan = selection.first_nan();
  if (nan >= 0) return nan;
  if (count == 0) return selection.cut(bin.digit.shift, 0), -1;
  // Listing costs 16 bytes for each key of the bin, so the bin is narrowed until it is small.
  const int64_t listed = std::max<int64_t>(total_size(pool) / 16, 1 << 12);
  while (bin.wanted < bin.inside && bin.inside > listed && bin.digit.shift > 0) bin = selection.next(&bin, bin.wanted);
  if (bin.wanted == bin.inside)
    selection.cut(bin.digit.shift, bin.prefix + 1);
  else if (bin.digit.shift == 0)
    selection.cut_ties(bin);
  else
    selection.cut_listed(bin);
  return -1;
}

}  // namespace prunecca::cpu
