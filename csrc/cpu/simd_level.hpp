// Which SIMD level of the kernels runs: the best the machine has, or the one PRUNECCA_CPU_LEVEL names.
//
// CMake compiles each <noun>_kernel.cpp once for each level, and writes the list of levels (simd_levels.h). Everything
// in such a file has internal linkage but for one function that hands out its kernels, overloaded on the level: so no
// symbol of one level can stand in for another's.
#pragma once
#include "simd_levels.h"

namespace prunecca::cpu {

#define PRUNECCA_LEVEL(name, runs) name,
enum class SimdLevel : int { PRUNECCA_SIMD_LEVELS(PRUNECCA_LEVEL) };
#undef PRUNECCA_LEVEL

template <SimdLevel> struct AtLevel {};
#ifdef PRUNECCA_SIMD_LEVEL
using ThisLevel = AtLevel<SimdLevel::PRUNECCA_SIMD_LEVEL>;  // that this kernel file is being compiled for
#endif

SimdLevel best_simd_level();  // what this machine can run
SimdLevel simd_level();       // what is in use

// Above the levels of vectors: products of the covariance in float32 on tiles, all else at the highest of those.
enum class Tiles { none, amx, emulated };
Tiles tiles_in_use();

const char* best_level_name();
const char* level_name();
void set_level(const char* name);  // "baseline", "avx2", "avx512", "amx"; throws when the machine lacks it

// What `choose` gives for AtLevel of the level in use.
template <class Choose> decltype(auto) at_simd_level(Choose&& choose) {
  switch (simd_level()) {
#define PRUNECCA_LEVEL(name, runs) \
  case SimdLevel::name: return choose(AtLevel<SimdLevel::name>{});
    PRUNECCA_SIMD_LEVELS(PRUNECCA_LEVEL)
#undef PRUNECCA_LEVEL
  }
  __builtin_unreachable();
}

}  // namespace prunecca::cpu
