#include "cpu/probe_kernel.hpp"

namespace prunecca::cpu {
ProbeKernel probe_avx2() { return kProbes; }
}  // namespace prunecca::cpu
