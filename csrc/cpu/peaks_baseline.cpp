#include "cpu/peaks_kernel.hpp"

namespace prunecca::cpu {
PeaksKernel peaks_baseline() { return kPeaks; }
}  // namespace prunecca::cpu
