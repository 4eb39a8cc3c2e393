#include "cpu/simd_level.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "check.hpp"

namespace prunecca::cpu {

namespace {
constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

SimdLevel parse(const char* name) {
  for (int i = 0; i < 3; ++i) {
    if (std::strcmp(name, kNames[i])) continue;
    const auto level = static_cast<SimdLevel>(i);
    PRUNECCA_CHECK(level <= best_simd_level(), "CPU level '", name, "' was asked for, but this machine has only '",
                   name_of(best_simd_level()), "'; unset PRUNECCA_CPU_LEVEL or name a lower level");
    return level;
  }
  fail("CPU level '", name, "' is unknown; expected baseline, avx2 or avx512");
}

std::atomic<int>& current() {
  static std::atomic<int> value = [] {
    const char* wanted = std::getenv("PRUNECCA_CPU_LEVEL");
    return static_cast<int>(wanted && *wanted ? parse(wanted) : best_simd_level());
  }();
  return value;
}
}  // namespace

SimdLevel best_simd_level() {
#if defined(__x86_64__)
  static const SimdLevel best = [] {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return avx512 ? SimdLevel::avx512 : avx2 ? SimdLevel::avx2 : SimdLevel::baseline;
  }();
  return best;
#else
  return SimdLevel::baseline;  // vector extensions compile to NEON here
#endif
}

SimdLevel simd_level() { return static_cast<SimdLevel>(current().load(std::memory_order_relaxed)); }
void set_simd_level(const char* name) { current() = static_cast<int>(parse(name)); }
const char* name_of(SimdLevel level) { return kNames[static_cast<int>(level)]; }

}  // namespace prunecca::cpu
