// Asking for memory before it is needed.
#pragma once
#include <cstdint>

namespace prunecca::cpu {

// Memory that will be read next, asked for a little at a time between arithmetic: one core's loads alone cannot keep
// the memory busy while it multiplies.
struct Stretch {
  const char* base;
  int64_t runs, lines, stride;
};  // `runs` of `lines` cache lines, `stride` bytes apart
struct Prefetch {
  const Stretch *at = nullptr, *end = nullptr;
  int64_t run = 0, line = 0;  // of *at
  int64_t at_once = 0;

  inline __attribute__((always_inline)) void some() {
    for (int64_t n = at_once; n > 0 && at != end;) {
      const char* p = at->base + run * at->stride + line * 64;
      const int64_t m = at->lines - line < n ? at->lines - line : n;
      for (int64_t k = 0; k < m; ++k) __builtin_prefetch(p + k * 64, 0, 2);
      n -= m;
      if ((line += m) < at->lines) continue;
      line = 0;
      if (++run == at->runs) run = 0, ++at;
    }
  }
};

}  // namespace prunecca::cpu
