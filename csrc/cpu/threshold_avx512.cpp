#include "cpu/threshold_kernel.hpp"

namespace prunecca::cpu {
ThresholdKernel threshold_avx512(Dtype dtype, Order order) { return kernel_for(dtype, order); }
}  // namespace prunecca::cpu
