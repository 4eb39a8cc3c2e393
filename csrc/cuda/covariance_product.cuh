// What one warp does with a stage: a 32 x 32 part of the products, in float32 by three TF32 products, or in float64.
//
// float32: x - shift = hi + lo, two TF32 numbers that hold 22 of its bits; hi hi + hi lo + lo hi leaves out 2^-22 of a
// product. Tensor cores round towards zero, so a sum over many rows would come out small: they sum over 8 rows only,
// from zero and the small products first; that is added to a rounded float32 sum, and this to a float64 sum every
// kFlush stages.
#pragma once
#include "cuda/covariance_stage.cuh"
#include "cuda/reduce.cuh"

namespace prunecca::cuda {

// Both have: begin(shifts, memory for the sums of 32 channels), stage(a, b, rows...), flush(), store(tile, line, sums).
// `a` and `b` point at row 0 of this warp's 32 channels of a stage. Rows from `valid` on count as zeros when kPartial.
template <class S, class P> struct WarpTile;

template <class S> struct WarpTile<S, float> {
  static constexpr int kFlush = 128 / S::kWarpRows;
  float sum[2][4][4] = {}, channel_sum[2][2] = {};
  double total[2][4][4] = {};
  double* channel_total;  // in shared memory, because the registers are full: one more would be spilled
  float shift_a[2][2], shift_b[4];

  __device__ void begin(const float* a, const float* b, double* memory) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4;
    channel_total = memory;
    channel_total[lane] = 0;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < 2; ++m)
      for (int h = 0; h < 2; ++h) shift_a[m][h] = a[16 * m + 8 * h + g];
#pragma unroll
    for (int n = 0; n < 4; ++n) shift_b[n] = b[8 * n + g];
  }

  template <bool kPartial>
  __device__ __forceinline__ void stage(const typename S::T* a, const typename S::T* b, int valid, bool diagonal) {
    [[maybe_unused]] constexpr int kUnroll =
        kPartial ? 1 : 2;  // the last stage of a piece may be slow; code for it should be short
#pragma unroll kUnroll
    for (int k = 0; k < S::kWarpRows; k += 8) {
      float d[2][4][4] = {};
      multiply<kPartial>(d, a, b, k, valid, diagonal);
#pragma unroll
      for (int m = 0; m < 2; ++m)
        for (int n = 0; n < 4; ++n)
          for (int e = 0; e < 4; ++e) sum[m][n][e] += d[m][n][e];
    }
  }

  template <bool kPartial>
  __device__ __forceinline__ void multiply(float (&d)[2][4][4], const typename S::T* a, const typename S::T* b, int k,
                                           int valid, bool diagonal) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    auto load = [&](const typename S::T* p, int channel, int row, float shift) {
      const float x = widen(p[channel * S::kChannelStep + row * S::kRowStep]) - shift;
      return kPartial && row >= valid ? 0.f : x;
    };
    float a_hi[2][4], a_lo[2][4], b_hi[4][2], b_lo[4][2];
#pragma unroll
    for (int m = 0; m < 2; ++m)
      for (int i = 0; i < 4; ++i) {  // i: 8 channels further, 4 rows further
        const float x = load(a, 16 * m + 8 * (i % 2) + g, k + 4 * (i / 2) + t, shift_a[m][i % 2]);
        channel_sum[m][i % 2] += x;
        a_hi[m][i] = round_to_tf32(x), a_lo[m][i] = x - a_hi[m][i];
      }
#pragma unroll
    for (int n = 0; n < 4; ++n)
      for (int i = 0; i < 2; ++i) {
        const float x = load(b, 8 * n + g, k + 4 * i + t, shift_b[n]);
        b_hi[n][i] = round_to_tf32(x), b_lo[n][i] = x - b_hi[n][i];
      }
    // Eight independent products between two that wait for each other; the small ones first.
#pragma unroll
    for (int product = 0; product < 3; ++product)
      for (int n = 0; n < 4; ++n)
        for (int m = 0; m < 2; ++m) {
          if (m == 1 && n < 2 && diagonal) continue;  // below the diagonal
          multiply_tf32(d[m][n], product == 0 ? a_lo[m] : a_hi[m], product == 1 ? b_lo[n] : b_hi[n]);
        }
  }

  __device__ void flush() {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      for (int n = 0; n < 4; ++n)
        for (int e = 0; e < 4; ++e) total[m][n][e] += double(sum[m][n][e]), sum[m][n][e] = 0;
      for (int h = 0; h < 2; ++h) {
        const double s = warp_sum<4>(double(channel_sum[m][h]));  // the four lanes that share a channel
        if (threadIdx.x % 4 == 0) channel_total[16 * m + 8 * h + threadIdx.x % 32 / 4] += s;
        channel_sum[m][h] = 0;
      }
    }
  }

  // Writes to rows of `line` doubles; `sums` null: another warp writes these channels' sums.
  __device__ void store(double* tile, int line, double* sums) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < 2; ++m)
      for (int h = 0; h < 2; ++h) {
        const int row = 16 * m + 8 * h + g;
        for (int n = 0; n < 4; ++n)
          *reinterpret_cast<double2*>(tile + row * line + 8 * n + 2 * t) =
              make_double2(total[m][n][2 * h], total[m][n][2 * h + 1]);
        if (sums && t == 0) sums[row] = channel_total[row];
      }
  }
};

template <class S> struct WarpTile<S, double> {
  static constexpr int kFlush = 1 << 30;  // nothing to flush
  double total[4][4][2] = {}, channel_total[4] = {}, shift_a[4], shift_b[4];

  __device__ void begin(const double* a, const double* b, double*) {
    const int g = int(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int m = 0; m < 4; ++m) shift_a[m] = a[8 * m + g], shift_b[m] = b[8 * m + g];
  }

  template <bool kPartial>
  __device__ __forceinline__ void stage(const typename S::T* a, const typename S::T* b, int valid, bool diagonal) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    auto load = [&](const typename S::T* p, int channel, int row, double shift) {
      const double x = double(widen(p[channel * S::kChannelStep + row * S::kRowStep])) - shift;
      return kPartial && row >= valid ? 0. : x;
    };
#pragma unroll 2
    for (int k = 0; k < S::kWarpRows; k += 4) {
      double av[4], bv[4];
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        av[m] = load(a, 8 * m + g, k + t, shift_a[m]);
        channel_total[m] += av[m];
        bv[m] = load(b, 8 * m + g, k + t, shift_b[m]);
      }
#pragma unroll
      for (int m = 0; m < 4; ++m)
        for (int n = 0; n < 4; ++n)
          if (n >= m || !diagonal) multiply_f64(total[m][n], av[m], bv[n]);
    }
  }

  __device__ void flush() {}

  __device__ void store(double* tile, int line, double* sums) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      for (int n = 0; n < 4; ++n)
        *reinterpret_cast<double2*>(tile + (8 * m + g) * line + 8 * n + 2 * t) =
            make_double2(total[m][n][0], total[m][n][1]);
      const double s = warp_sum<4>(channel_total[m]);
      if (sums && t == 0) sums[8 * m + g] = s;
    }
  }
};

}  // namespace prunecca::cuda
