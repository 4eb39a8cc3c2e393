#include "cpu/probe_kernel.hpp"

namespace prunecca::cpu {
ProbeKernel probe_baseline() { return kProbes; }
}  // namespace prunecca::cpu
