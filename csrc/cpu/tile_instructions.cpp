#include "cpu/tile_instructions.hpp"

#include "cpu/covariance_plan.hpp"

#if PRUNECCA_HAVE_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace prunecca::cpu {

#if PRUNECCA_HAVE_AMX
namespace {

constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, of Linux 5.16 and later
constexpr long kTileData = 18;               // the number of that part of a thread's state

bool cpu_has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  return (d & kBf16) && (d & kTile);
}

}  // namespace

// The answer holds for all threads of the process, of now and of later, and for what it forks.
bool amx_is_permitted() {
  static const bool permitted = cpu_has_amx() && best_simd_level() == SimdLevel::avx512 &&
                                !syscall(SYS_arch_prctl, kRequestPermission, kTileData);
  return permitted;
}
#else
bool amx_is_permitted() { return false; }
#endif

std::optional<Kernels<float>> kernel_on_tiles(const Problem& problem) {
  const Tiles tiles = tiles_in_use();
  if (tiles == Tiles::none || problem.float64) return {};
  if (tiles == Tiles::emulated) return amx_emulated_kernel();
#if PRUNECCA_HAVE_AMX
  const Plan<float> plan(problem, 1);
  if (2 * plan.first_block.back() >= 5 * plan.panels()) return amx_kernel();  // 64 channels with themselves
#endif
  return {};
}

}  // namespace prunecca::cpu
