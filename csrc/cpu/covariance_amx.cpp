// Compiled for AVX-512 and the tiles of AMX, apart from all other code.
#include <immintrin.h>

#include "cpu/tile_product.hpp"

namespace prunecca::cpu {
namespace {

// All eight tiles, of 16 lines of 64 bytes. Constant memory: the compiler is told of the first bytes alone that they
// are read.
struct alignas(64) Setup {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t lines[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr Setup kAllWhole;
static_assert(sizeof(Setup) == 64 && kTileSide == 16);

struct AmxTiles {
  static const Kernels<float>& by_vectors() { return covariance_kernel(AtLevel<SimdLevel::avx512>{}).float32; }

  // Tiles are set up for one call: a thread that leaves them set up has them saved at every switch to another.
  struct InUse {
    InUse() { _tile_loadconfig(&kAllWhole); }
    ~InUse() { _tile_release(); }
    InUse(const InUse&) = delete;
  };

  // The compiler's names of the instructions want the numbers of tiles as digits.
#define PRUNECCA_TILES(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define PRUNECCA_ZERO(t) \
  if constexpr (tile == t) _tile_zero(t);
#define PRUNECCA_LOAD(t) \
  if constexpr (tile == t) _tile_loadd(t, from, 64);
#define PRUNECCA_STORE(t) \
  if constexpr (tile == t) _tile_stored(t, to, 64);
  template <int tile> static void zero() { PRUNECCA_TILES(PRUNECCA_ZERO) }
  template <int tile> static void load(const float* from) { PRUNECCA_TILES(PRUNECCA_LOAD) }
  template <int tile> static void store(float* to){PRUNECCA_TILES(PRUNECCA_STORE)}
#define PRUNECCA_PRODUCT(s, a) \
  if constexpr (sum == s && left == a) _tile_dpbf16ps(s, a, 7);
#define PRUNECCA_PRODUCTS(s) PRUNECCA_PRODUCT(s, 4) PRUNECCA_PRODUCT(s, 5) PRUNECCA_PRODUCT(s, 6)
  template <int sum, int left, int right> static void multiply() {
    static_assert(sum <= 3 && left >= 4 && left <= 6 && right == 7);
    PRUNECCA_PRODUCTS(0) PRUNECCA_PRODUCTS(1) PRUNECCA_PRODUCTS(2) PRUNECCA_PRODUCTS(3)
  }
};

}  // namespace

Kernels<float> amx_kernel() { return kernel_on_tiles<AmxTiles>(); }

}  // namespace prunecca::cpu
