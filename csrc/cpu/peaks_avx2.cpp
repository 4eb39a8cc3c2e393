#include "cpu/peaks_kernel.hpp"

namespace prunecca::cpu {
PeaksKernel peaks_avx2() { return kPeaks; }
}  // namespace prunecca::cpu
