// Which SIMD level of the kernels runs: the best the machine has, or the one PRUNECCA_CPU_LEVEL names.
#pragma once

namespace prunecca::cpu {

enum class Level : int { baseline = 0, avx2 = 1, avx512 = 2 };

Level best_level();                  // what this machine can run
Level level();                       // what is in use
void set_level(const char* name);    // "baseline", "avx2", "avx512"; throws when the machine lacks it
const char* name_of(Level level);

}  // namespace prunecca::cpu
