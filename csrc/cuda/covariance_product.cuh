// What one warp does with a stage: a 32 x 32 part of the products (16 x 16 of a panel of 16), in float32 by three TF32
// products, or in float64.
//
// float32: x - shift = hi + lo, two TF32 numbers that hold 22 of its bits; hi hi + hi lo + lo hi leaves out 2^-22 of a
// product. Tensor cores round towards zero, so a sum over many rows would come out small: they sum over 16 rows only,
// from zero and all small products first; that is added to a rounded float32 sum, and this to a float64 sum every
// kFlush stages.
//
// What bounds this is the number of instructions, so a part on the diagonal, whose two sides are the same numbers, reads
// and splits them once; lane 4 g + t holds the same channel and row of either side.
#pragma once
#include "cuda/covariance_stage.cuh"
#include "cuda/reduce.cuh"

namespace prunecca::cuda {

// Both have: begin(shifts, memory for the sums of 32 channels), stage(a, b, rows, valid), flush(), store(tile, line,
// sums). `a` and `b` point at row 0 of this warp's channels of a stage; kSame: at the same. Rows from `valid` on count
// as zeros when kPartial.
template <class S, class P> struct WarpTile;

// The parts of a 32 x 32 tile below the diagonal of 16 x 8 products; nobody reads them.
template <bool kSame> __device__ constexpr bool left_out(int m, int n) { return kSame && m == 1 && n < 2; }

template <class S> struct WarpTile<S, float> {
  using T = typename S::T;
  static constexpr int kM = S::kPart / 16, kN = S::kPart / 8;
  static constexpr int kFlush = 128 / S::kWarpRows;
  static constexpr int kRows = 16;  // that tensor cores sum
  // What rounding towards zero takes from these sums on average, 1.0 to 1.6 times 2^-23 by how a chip aligns addends, is
  // put back.
  static constexpr float kLost = 1 + 0x1p-23f;
  float sum[kM][kN][4] = {}, channel_sum[kM][2] = {};
  double total[kM][kN][4] = {};
  double* channel_total;  // in shared memory, because the registers are full: one more would be spilled
  float shift_a[kM][2], shift_b[kN];
  // Sixteen-bit numbers are TF32 numbers. Where no channel of the part is shifted, one product is exact and enough.
  bool exact = false;

  __device__ void begin(const float* a, const float* b, double* memory) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4;
    channel_total = memory;
    channel_total[lane] = 0;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < kM; ++m)
      for (int h = 0; h < 2; ++h) shift_a[m][h] = a[16 * m + 8 * h + g];
#pragma unroll
    for (int n = 0; n < kN; ++n) shift_b[n] = b[8 * n + g];
    if constexpr (sizeof(T) == 2) {
      bool zero = true;
#pragma unroll
      for (int n = 0; n < kN; ++n) zero &= shift_b[n] == 0 && shift_a[n / 2][n % 2] == 0;
      exact = __all_sync(~0u, zero);
    }
  }

  template <bool kPartial, bool kSame>
  __device__ __forceinline__ void stage(const T* a, const T* b, int rows, int valid) {
    if (sizeof(T) == 2 && exact)
      add<kPartial, kSame, sizeof(T) == 2>(a, b, rows, valid);
    else
      add<kPartial, kSame, false>(a, b, rows, valid);
  }

  template <bool kPartial, bool kSame, bool kExact>
  __device__ __forceinline__ void add(const T* a, const T* b, int rows, int valid) {
#pragma unroll 1
    for (int k = 0; k < rows; k += kRows) {
      float d[kM][kN][4] = {}, a_hi[kRows / 8][kM][4], b_hi[kRows / 8][kN][2];
#pragma unroll
      for (int i = 0; i < kRows / 8; ++i) split<kPartial, kSame, kExact>(d, a_hi[i], b_hi[i], a, b, k + 8 * i, valid);
#pragma unroll
      for (int i = 0; i < kRows / 8; ++i) multiply<kSame>(d, a_hi[i], b_hi[i]);
#pragma unroll
      for (int m = 0; m < kM; ++m)
        for (int n = 0; n < kN; ++n)
          for (int e = 0; e < 4; ++e)
            if (!left_out<kSame>(m, n)) sum[m][n][e] = fmaf(d[m][n][e], kLost, sum[m][n][e]);
    }
  }

  // Eight independent products between two that wait for each other.
  template <bool kSame>
  __device__ __forceinline__ void multiply(float (&d)[kM][kN][4], const float (&a)[kM][4], const float (&b)[kN][2]) {
#pragma unroll
    for (int n = 0; n < kN; ++n)
      for (int m = 0; m < kM; ++m)
        if (!left_out<kSame>(m, n)) multiply_tf32(d[m][n], a[m], b[n]);
  }

  // Reads rows k .. k + 7, adds the small products to d and leaves the large parts in a_hi and b_hi.
  template <bool kPartial, bool kSame, bool kExact>
  __device__ __forceinline__ void split(float (&d)[kM][kN][4], float (&a_hi)[kM][4], float (&b_hi)[kN][2], const T* a,
                                        const T* b, int k, int valid) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    auto load = [&](const T* p, int channel, int row, float shift) {
      const float x = widen(p[channel * S::kChannelStep + row * S::kRowStep]) - shift;
      return kPartial && row >= valid ? 0.f : x;
    };
    float a_lo[kM][4], b_lo[kN][2];
#pragma unroll
    for (int m = 0; m < kM; ++m)
      for (int i = 0; i < 4; ++i) {  // i: 8 channels further, 4 rows further
        const float x = load(a, 16 * m + 8 * (i % 2) + g, k + 4 * (i / 2) + t, shift_a[m][i % 2]);
        if (kSame) channel_sum[m][i % 2] += x;
        a_hi[m][i] = kExact ? x : round_to_tf32(x), a_lo[m][i] = kExact ? 0.f : x - a_hi[m][i];
        if constexpr (kSame) {
          // The same numbers again, each from the other: a fragment wants its numbers in neighbouring registers, and
          // the compiler would copy equal ones to and fro for every product.
          const int n = 2 * m + i % 2;
          b_hi[n][i / 2] = kExact ? x : x - a_lo[m][i], b_lo[n][i / 2] = kExact ? 0.f : x - b_hi[n][i / 2];
        }
      }
    if constexpr (!kSame) {
#pragma unroll
      for (int n = 0; n < kN; ++n)
        for (int i = 0; i < 2; ++i) {
          const float x = load(b, 8 * n + g, k + 4 * i + t, shift_b[n]);
          b_hi[n][i] = kExact ? x : round_to_tf32(x), b_lo[n][i] = kExact ? 0.f : x - b_hi[n][i];
        }
    }
    if constexpr (!kExact) {
      multiply<kSame>(d, a_lo, b_hi);
      multiply<kSame>(d, a_hi, b_lo);
    }
  }

  __device__ void flush() {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      for (int n = 0; n < kN; ++n)
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
    for (int m = 0; m < kM; ++m)
      for (int h = 0; h < 2; ++h) {
        const int row = 16 * m + 8 * h + g;
        for (int n = 0; n < kN; ++n)
          *reinterpret_cast<double2*>(tile + row * line + 8 * n + 2 * t) =
              make_double2(total[m][n][2 * h], total[m][n][2 * h + 1]);
        if (sums && t == 0) sums[row] = channel_total[row];
      }
  }
};

template <class S> struct WarpTile<S, double> {
  using T = typename S::T;
  static constexpr int kM = S::kPart / 16, kN = S::kPart / 8;
  static constexpr int kFlush = 1 << 30;                 // nothing to flush
  static constexpr int kRows = sizeof(T) == 8 ? 8 : 16;  // of one product
  double total[kM][kN][4] = {}, channel_total[kM][2] = {}, shift_a[kM][2], shift_b[kN];

  __device__ void begin(const double* a, const double* b, double*) {
    const int g = int(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int m = 0; m < kM; ++m)
      for (int h = 0; h < 2; ++h) shift_a[m][h] = a[16 * m + 8 * h + g];
#pragma unroll
    for (int n = 0; n < kN; ++n) shift_b[n] = b[8 * n + g];
  }

  template <bool kPartial, bool kSame>
  __device__ __forceinline__ void stage(const T* a, const T* b, int rows, int valid) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    auto load = [&](const T* p, int channel, int row, double shift) {
      const double x = double(widen(p[channel * S::kChannelStep + row * S::kRowStep])) - shift;
      return kPartial && row >= valid ? 0. : x;
    };
#pragma unroll 1
    for (int k = 0; k < rows; k += kRows) {
      double av[kM][kRows / 2], bv[kN][kRows / 4];
#pragma unroll
      for (int m = 0; m < kM; ++m)
        for (int i = 0; i < kRows / 2; ++i) {  // i: 8 channels further, 4 rows further
          av[m][i] = load(a, 16 * m + 8 * (i % 2) + g, k + 4 * (i / 2) + t, shift_a[m][i % 2]);
          if (kSame) channel_total[m][i % 2] += av[m][i];
        }
#pragma unroll
      for (int n = 0; n < kN; ++n)
        for (int i = 0; i < kRows / 4; ++i) {
          if constexpr (kSame)
            bv[n][i] = av[n / 2][n % 2 + 2 * i];
          else
            bv[n][i] = load(b, 8 * n + g, k + 4 * i + t, shift_b[n]);
        }
#pragma unroll
      for (int n = 0; n < kN; ++n)
        for (int m = 0; m < kM; ++m)
          if (!left_out<kSame>(m, n)) multiply_f64<kRows>(total[m][n], av[m], bv[n]);
    }
  }

  __device__ void flush() {}

  __device__ void store(double* tile, int line, double* sums) {
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < kM; ++m)
      for (int h = 0; h < 2; ++h) {
        const int row = 16 * m + 8 * h + g;
        for (int n = 0; n < kN; ++n)
          *reinterpret_cast<double2*>(tile + row * line + 8 * n + 2 * t) =
              make_double2(total[m][n][2 * h], total[m][n][2 * h + 1]);
        const double s = warp_sum<4>(channel_total[m][h]);
        if (sums && t == 0) sums[row] = s;
      }
  }
};

}  // namespace prunecca::cuda
