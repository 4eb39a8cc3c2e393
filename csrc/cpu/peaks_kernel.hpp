// The loops of the peaks: what each SIMD level provides.
#pragma once
#include <cstdint>

#include "cpu/simd_level.hpp"

namespace prunecca::cpu {

struct PeaksKernel {
  double (*fma_float32)(int64_t iterations);  // operations done by the calling thread
  double (*fma_float64)(int64_t iterations);
  uint64_t (*read)(const uint64_t* data, int64_t words);
};

#define PRUNECCA_LEVEL(name, runs) PeaksKernel peaks_kernel(AtLevel<SimdLevel::name>);
PRUNECCA_SIMD_LEVELS(PRUNECCA_LEVEL)
#undef PRUNECCA_LEVEL

}  // namespace prunecca::cpu
