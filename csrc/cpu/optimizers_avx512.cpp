#include "cpu/optimizers_kernel.hpp"

namespace prunecca::cpu {
StepKernel step_avx512() { return kSteps; }
}  // namespace prunecca::cpu
