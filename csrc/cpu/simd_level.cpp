#include "cpu/simd_level.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>

#include "check.hpp"

namespace prunecca::cpu {

namespace {

#define PRUNECCA_LEVEL(name, runs) #name,
constexpr const char* kNames[] = {PRUNECCA_SIMD_LEVELS(PRUNECCA_LEVEL)};
#undef PRUNECCA_LEVEL
constexpr int kLevels = int(std::size(kNames));

std::string all_names() {
  std::string names = kNames[0];
  for (int i = 1; i < kLevels; ++i) names += (i + 1 < kLevels ? ", " : " or ") + std::string(kNames[i]);
  return names;
}

SimdLevel parse(const char* name) {
  for (int i = 0; i < kLevels; ++i) {
    if (std::strcmp(name, kNames[i])) continue;
    const auto level = static_cast<SimdLevel>(i);
    PRUNECCA_CHECK(level <= best_simd_level(), "CPU level '", name, "' was asked for, but this machine has only '",
                   name_of(best_simd_level()), "'; unset PRUNECCA_CPU_LEVEL or name a lower level");
    return level;
  }
  fail("CPU level '", name, "' is unknown; expected ", all_names());
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
  static const SimdLevel best = [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    SimdLevel highest = SimdLevel::baseline;  // elsewhere vector extensions compile to NEON here
#define PRUNECCA_LEVEL(name, runs) \
  if (runs) highest = SimdLevel::name;
    PRUNECCA_SIMD_LEVELS(PRUNECCA_LEVEL)
#undef PRUNECCA_LEVEL
    return highest;
  }();
  return best;
}

SimdLevel simd_level() { return static_cast<SimdLevel>(current().load(std::memory_order_relaxed)); }
void set_simd_level(const char* name) { current() = static_cast<int>(parse(name)); }
const char* name_of(SimdLevel level) { return kNames[static_cast<int>(level)]; }

}  // namespace prunecca::cpu
