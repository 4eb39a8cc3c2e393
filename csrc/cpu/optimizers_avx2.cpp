#include "cpu/optimizers_kernel.hpp"

namespace prunecca::cpu {
StepKernel step_avx2() { return kSteps; }
}  // namespace prunecca::cpu
