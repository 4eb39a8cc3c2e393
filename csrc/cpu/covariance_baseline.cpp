#include "cpu/covariance_kernel.hpp"

namespace prunecca::cpu {

extern const Kernels<float> covariance_baseline_float32;
extern const Kernels<double> covariance_baseline_float64;
const Kernels<float> covariance_baseline_float32 = kTable<float>;
const Kernels<double> covariance_baseline_float64 = kTable<double>;

}  // namespace prunecca::cpu
