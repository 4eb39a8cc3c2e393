#include "cpu/level.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "check.hpp"

namespace prunecca::cpu {

namespace {
constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Level parse(const char* name) {
  for (int i = 0; i < 3; ++i) {
    if (std::strcmp(name, kNames[i])) continue;
    const auto level = static_cast<Level>(i);
    PRUNECCA_CHECK(level <= best_level(), "CPU level '", name, "' was asked for, but this machine has only '",
                   name_of(best_level()), "'; unset PRUNECCA_CPU_LEVEL or name a lower level");
    return level;
  }
  fail("CPU level '", name, "' is unknown; expected baseline, avx2 or avx512");
}

std::atomic<int>& current() {
  static std::atomic<int> value = [] {
    const char* wanted = std::getenv("PRUNECCA_CPU_LEVEL");
    return static_cast<int>(wanted && *wanted ? parse(wanted) : best_level());
  }();
  return value;
}
}  // namespace

Level best_level() {
#if defined(__x86_64__)
  static const Level best = [] {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return avx512 ? Level::avx512 : avx2 ? Level::avx2 : Level::baseline;
  }();
  return best;
#else
  return Level::baseline;  // vector extensions compile to NEON here
#endif
}

Level level() { return static_cast<Level>(current().load(std::memory_order_relaxed)); }
void set_level(const char* name) { current() = static_cast<int>(parse(name)); }
const char* name_of(Level level) { return kNames[static_cast<int>(level)]; }

}  // namespace prunecca::cpu
