// What stands in for AMX on machines without it, so that what is built on tiles can be tested there: plain loops that
// round as TDPBF16PS is documented to, bit for bit. For tests; it is slow.
#include <atomic>
#include <cmath>

#include "cpu/tile_product.hpp"

namespace prunecca::cpu {
namespace {

alignas(64) thread_local uint32_t tiles[8][kTileSide][kTileSide];
std::atomic<int64_t> products, loads, stores;

// Below the smallest normal number a result is zero, of the same sign. Sums and products of float32 numbers that are
// taken in float64 and then rounded are those that are rounded once.
inline float flushed(double exact) {
  const float x = float(exact);
  return std::abs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x;
}
// An operand: its bits are the upper half of a float32's, and one below the smallest normal number is zero.
inline float operand(uint32_t bits) { return flushed(__builtin_bit_cast(float, bits)); }
inline float low(uint32_t pair) { return operand(pair << 16); }
inline float high(uint32_t pair) { return operand(pair & 0xffff0000u); }

struct EmulatedTiles {
  static const Kernels<float>& by_vectors() {
    const CovarianceKernel& kernel =
        at_simd_level([](auto level) -> decltype(auto) { return covariance_kernel(level); });
    return kernel.float32;
  }

  struct InUse {
    InUse() {}  // so that it counts as used
  };

  template <int tile> static void zero() { std::memset(tiles[tile], 0, sizeof tiles[tile]); }
  template <int tile> static void load(const float* from) {
    std::memcpy(tiles[tile], from, sizeof tiles[tile]);
    loads.fetch_add(1, std::memory_order_relaxed);
  }
  template <int tile> static void store(float* to) {
    std::memcpy(to, tiles[tile], sizeof tiles[tile]);
    stores.fetch_add(1, std::memory_order_relaxed);
  }
  // Even and odd rows are summed apart, from zero on; the two sums are added, and then join the tile.
  template <int sum, int left, int right> static void multiply() {
    for (int m = 0; m < kTileSide; ++m) {
      float even[kTileSide] = {}, odd[kTileSide] = {};
      for (int k = 0; k < kTileSide; ++k) {
        const double a = low(tiles[left][m][k]), b = high(tiles[left][m][k]);
        for (int n = 0; n < kTileSide; ++n) {
          even[n] = flushed(double(even[n]) + a * double(low(tiles[right][k][n])));
          odd[n] = flushed(double(odd[n]) + b * double(high(tiles[right][k][n])));
        }
      }
      for (int n = 0; n < kTileSide; ++n) {
        const float both = flushed(double(even[n]) + double(odd[n]));
        const float before = flushed(__builtin_bit_cast(float, tiles[sum][m][n]));
        tiles[sum][m][n] = __builtin_bit_cast(uint32_t, flushed(double(before) + double(both)));
      }
    }
    products.fetch_add(1, std::memory_order_relaxed);
  }
};

}  // namespace

Kernels<float> amx_emulated_kernel() { return kernel_on_tiles<EmulatedTiles>(); }

TileCounts emulated_tile_counts() { return {products, loads, stores}; }

}  // namespace prunecca::cpu
