#include "cpu/simd_level.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>

#include "check.hpp"
#include "cpu/tile_instructions.hpp"

namespace prunecca::cpu {

namespace {

// The levels of vectors, then those of tiles. The last is for tests: no machine chooses it, no sentence offers it.
#define PRUNECCA_LEVEL(name, runs) #name,
constexpr const char* kNames[] = {PRUNECCA_SIMD_LEVELS(PRUNECCA_LEVEL) "amx", "amx_emulated"};
#undef PRUNECCA_LEVEL
constexpr int kEmulated = int(std::size(kNames)) - 1, kAmx = kEmulated - 1;

std::string all_names() {
  std::string names = kNames[0];
  for (int i = 1; i <= kAmx; ++i) names += (i < kAmx ? ", " : " or ") + std::string(kNames[i]);
  return names;
}

int best() { return amx_is_permitted() ? kAmx : int(best_simd_level()); }

int parse(const char* name) {
  for (int i = 0; i <= kEmulated; ++i) {
    if (std::strcmp(name, kNames[i])) continue;
    PRUNECCA_CHECK(i == kEmulated || i <= best(), "CPU level '", name, "' was asked for, but this machine has only '",
                   best_level_name(), "'; unset PRUNECCA_CPU_LEVEL or name a lower level");
    return i;
  }
  fail("CPU level '", name, "' is unknown; expected ", all_names());
}

std::atomic<int>& current() {
  static std::atomic<int> value = [] {
    const char* wanted = std::getenv("PRUNECCA_CPU_LEVEL");
    // Tiles have not met a machine that has them, so nobody gets them who does not ask.
    return wanted && *wanted ? parse(wanted) : int(best_simd_level());
  }();
  return value;
}

int in_use() { return current().load(std::memory_order_relaxed); }

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

SimdLevel simd_level() { return in_use() < kAmx ? static_cast<SimdLevel>(in_use()) : best_simd_level(); }
Tiles tiles_in_use() { return in_use() < kAmx ? Tiles::none : in_use() == kAmx ? Tiles::amx : Tiles::emulated; }

const char* best_level_name() { return kNames[best()]; }
const char* level_name() { return kNames[in_use()]; }
void set_level(const char* name) { current() = parse(name); }

}  // namespace prunecca::cpu
