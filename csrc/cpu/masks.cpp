#include "cpu/masks.hpp"

#include "cpu/thread_parts.hpp"

namespace prunecca::cpu {

namespace {
// Bandwidth decides here, and the baseline instructions already reach it: no SIMD levels.
template <class Word> void copy_kept(const Masked& t, int64_t begin, int64_t end) {
  Word* out = static_cast<Word*>(t.out);
  const Word* in = static_cast<const Word*>(t.in);
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) out[i] = in[i] & static_cast<Word>(-static_cast<Word>(t.mask[i] != 0));
}
}  // namespace

void masked_copy(const std::vector<Masked>& tensors, int threads) {
  const int parts = useful_threads(total_size(tensors), threads);
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int part = 0; part < parts; ++part) {
    for_part(tensors, part, parts, [](const Masked& t, int64_t begin, int64_t end, int64_t) {
      switch (t.itemsize) {
        case 2: return copy_kept<uint16_t>(t, begin, end);
        case 4: return copy_kept<uint32_t>(t, begin, end);
        default: return copy_kept<uint64_t>(t, begin, end);
      }
    });
  }
}

std::vector<int64_t> count_kept(const std::vector<Counted>& masks, int threads) {
  std::vector<int64_t> counts(masks.size(), 0);
  const int parts = useful_threads(total_size(masks), threads);
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int part = 0; part < parts; ++part) {
    for_part(masks, part, parts, [&](const Counted& mask, int64_t begin, int64_t end, int64_t) {
      int64_t kept = 0;
      while (begin < end) {  // short runs, so that the inner sum may stay in narrow lanes
        constexpr int64_t kRun = 240;  // the most whole vectors whose count a byte can hold
        uint8_t run = 0;
        if (end - begin >= kRun)
          for (int64_t i = 0; i < kRun; ++i) run += mask.mask[begin + i] != 0;
        else
          for (int64_t i = begin; i < end; ++i) run += mask.mask[i] != 0;
        kept += run;
        begin += kRun;
      }
      int64_t& count = counts[&mask - masks.data()];
#pragma omp atomic
      count += kept;
    });
  }
  return counts;
}

}  // namespace prunecca::cpu
