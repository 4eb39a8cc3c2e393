// Which SIMD level of the kernels runs: the best the machine has, or the one PRUNECCA_CPU_LEVEL names.
#pragma once

namespace prunecca::cpu {

enum class SimdLevel : int { baseline = 0, avx2 = 1, avx512 = 2 };

SimdLevel best_simd_level();                  // what this machine can run
SimdLevel simd_level();                       // what is in use
void set_simd_level(const char* name);    // "baseline", "avx2", "avx512"; throws when the machine lacks it
const char* name_of(SimdLevel level);

}  // namespace prunecca::cpu
