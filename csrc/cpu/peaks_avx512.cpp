#include "cpu/peaks_kernel.hpp"

namespace prunecca::cpu {
PeaksKernel peaks_avx512() { return kPeaks; }
}  // namespace prunecca::cpu
