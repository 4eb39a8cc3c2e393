// Products on tiles of bfloat16: by the instructions of AMX, where the machine has them, or by their stand-in.
#pragma once
#include <cstdint>
#include <optional>

#include "cpu/covariance_kernel.hpp"

namespace prunecca::cpu {

// The CPU has AMX-TILE, AMX-BF16 and the AVX-512 of that level, and the system lets this process use tiles; it is asked
// once, when this is first called.
bool amx_is_permitted();

// The products in float32 on tiles; everything else as the vectors of the level do it.
#if PRUNECCA_HAVE_AMX
Kernels<float> amx_kernel();
#endif
Kernels<float> amx_emulated_kernel();

// What takes the products of a problem on tiles, where they are in use and pay: packing takes longer with them, so there
// must be products enough.
std::optional<Kernels<float>> kernel_on_tiles(const Problem& problem);

// What the stand-in has been asked for since the start of the process.
struct TileCounts {
  int64_t products = 0, loads = 0, stores = 0;
};
TileCounts emulated_tile_counts();

}  // namespace prunecca::cpu
