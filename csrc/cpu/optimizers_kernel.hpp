// The optimizer steps over one contiguous piece: what each SIMD level provides.
#pragma once
#include <cstdint>

#include "../optimizers.hpp"
#include "cpu/simd_level.hpp"

namespace prunecca::cpu {

struct StepKernel {
  void (*adam)(const AdamTensor& tensor, int64_t begin, int64_t end, const AdamRule& rule);
  void (*sgd)(const SgdTensor& tensor, int64_t begin, int64_t end, const SgdRule& rule);
};

#define PRUNECCA_LEVEL(name, runs) StepKernel step_kernel(AtLevel<SimdLevel::name>);
PRUNECCA_SIMD_LEVELS(PRUNECCA_LEVEL)
#undef PRUNECCA_LEVEL

}  // namespace prunecca::cpu
