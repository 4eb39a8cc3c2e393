#include "cpu/optimizers_kernel.hpp"

namespace prunecca::cpu {
StepKernel step_baseline() { return kSteps; }
}  // namespace prunecca::cpu
