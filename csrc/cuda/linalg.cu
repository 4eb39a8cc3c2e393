#include "cuda/linalg.cuh"

#include <cfloat>
#include <limits>

#include "cuda/reduce.cuh"

namespace prunecca::cuda {
namespace {

constexpr int kLanes = 8;  // threads that hold one pair of columns; four pairs in a warp

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// What a block works on: up to kSide columns of up to kSide entries (zeros fill the rest), two columns to kLanes
// threads.
template <int kSide> struct Tile {
  static constexpr int kThreads = kSide / 2 * kLanes;
  static constexpr int kOwn = kSide / kLanes;  // entries of a column that one thread holds
  double column[kSide][kSide + 8];             // the pad parts neighbouring columns onto other banks
  double norm[kSide];
  int order[kSide];  // columns by norm
  double partial[kThreads / 32];
};

__device__ __forceinline__ double max_or_nan(double x, double y) { return x != x || x > y ? x : y; }

// The largest x over the block, NaN if there is one, for every thread.
template <int kThreads> __device__ __forceinline__ double block_max(double x, double* scratch) {
#pragma unroll
  for (int d = 16; d; d /= 2) x = max_or_nan(x, __shfl_xor_sync(~0u, x, d));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) x = max_or_nan(x, scratch[w]);
  __syncthreads();
  return x;
}

// How a matrix A was loaded: the tile holds scale * A + shift * identity.
struct Loaded {
  double scale, shift;
};

// Fills the tile. The scale is the power of two that brings the largest absolute column sum into [1, 2), so that no
// square below leaves the range of float64; the shift is `shifts` times that sum, which no eigenvalue exceeds.
template <int kSide, class Entry>
__device__ __forceinline__ Loaded load_tile(Tile<kSide>& tile, int rows, int columns, double shifts, Entry entry) {
  constexpr int kThreads = Tile<kSide>::kThreads;
  for (int e = int(threadIdx.x); e < kSide * kSide; e += kThreads) {
    const int r = e % kSide, c = e / kSide;
    tile.column[c][r] = r < rows && c < columns ? entry(r, c) : 0.0;
  }
  __syncthreads();
  double sum = 0;
  if (int(threadIdx.x) < columns)
    for (int r = 0; r < rows; ++r) sum += fabs(tile.column[threadIdx.x][r]);
  const double bound = block_max<kThreads>(sum, tile.partial);
  const double scale = bound > 0 && bound <= DBL_MAX ? scalbn(1.0, -ilogb(bound)) : 1.0;
  const double shift = shifts * bound * scale;
  for (int e = int(threadIdx.x); e < kSide * kSide; e += kThreads) {
    const int r = e % kSide, c = e / kSide;
    tile.column[c][r] = tile.column[c][r] * scale + (r == c && c < columns ? shift : 0.0);
  }
  __syncthreads();
  return {scale, shift};
}

// Makes one pair of columns orthogonal; whether it had to turn them. All lanes of the warp call it.
template <int kSide> __device__ __forceinline__ bool turn_pair(Tile<kSide>& tile, int p, int q, bool there,
                                                               double tolerance) {
  constexpr int kOwn = Tile<kSide>::kOwn;
  const int lane = int(threadIdx.x) % kLanes;
  double x[kOwn], y[kOwn], xx = 0, yy = 0, xy = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    x[i] = there ? tile.column[p][lane + kLanes * i] : 0.0;
    y[i] = there ? tile.column[q][lane + kLanes * i] : 0.0;
    xx += x[i] * x[i];
    yy += y[i] * y[i];
    xy += x[i] * y[i];
  }
  xx = warp_sum<kLanes>(xx);
  yy = warp_sum<kLanes>(yy);
  xy = warp_sum<kLanes>(xy);
  // The second test: what lies below the rounding of the largest singular value is left as it is.
  if (!(xy * xy > tolerance * tolerance * (xx * yy)) || !(fabs(xy) > DBL_EPSILON * DBL_EPSILON)) return false;
  const double zeta = (yy - xx) / (2 * xy);
  const double t = copysign(1.0, zeta) / (fabs(zeta) + sqrt(1 + zeta * zeta));
  // As corrections of x and y, so that small angles leave small rounding errors: the norms would drift otherwise.
  const double c = rsqrt(1 + t * t), s = c * t, half = s / (1 + c);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    tile.column[p][lane + kLanes * i] = x[i] - s * (y[i] + half * x[i]);
    tile.column[q][lane + kLanes * i] = y[i] + s * (x[i] - half * y[i]);
  }
  return true;
}

// Sweeps until no pair turns; the number of sweeps, or -1 when most_sweeps did not suffice.
template <int kSide> __device__ __forceinline__ int turn_all(Tile<kSide>& tile, int rows, int columns,
                                                             int most_sweeps) {
  const int players = columns + columns % 2;  // an odd column out rests
  const int pair = int(threadIdx.x) / kLanes;
  const double tolerance = DBL_EPSILON * sqrt(double(rows));
  for (int sweep = 1; sweep <= most_sweeps; ++sweep) {
    bool turned = false;
    for (int round = 0; round < players - 1; ++round) {
      const int p = pair ? (round + pair) % (players - 1) : players - 1;
      const int q = (round - pair + players - 1) % (players - 1);
      const bool there = pair < players / 2 && p < columns && q < columns;
      turned |= turn_pair(tile, p, q, there, tolerance);
      __syncthreads();
    }
    if (!__syncthreads_or(turned)) return sweep;
  }
  return -1;
}

// Norms of the columns, and their order: ascending, or descending.
template <int kSide> __device__ __forceinline__ void sort_norms(Tile<kSide>& tile, int rows, int columns,
                                                                bool descending) {
  const int j = int(threadIdx.x);
  if (j < columns) {
    double square = 0;
    for (int r = 0; r < rows; ++r) square += tile.column[j][r] * tile.column[j][r];
    tile.norm[j] = sqrt(square);
    tile.order[j] = j;  // for a NaN, which has no rank
  }
  __syncthreads();
  int rank = 0;
  if (j < columns)
    for (int k = 0; k < columns; ++k) {
      const bool before = descending ? tile.norm[k] > tile.norm[j] : tile.norm[k] < tile.norm[j];
      rank += before || (tile.norm[k] == tile.norm[j] && k < j);
    }
  __syncthreads();
  if (j < columns) tile.order[rank] = j;
  __syncthreads();
}

// Works on the matrix plus a multiple of the identity that makes all eigenvalues positive and of like size: then the
// columns' norms are the eigenvalues and the columns' directions the eigenvectors, those of eigenvalue zero
// included, and no second matrix has to be stored and turned.
template <int kSide>
__global__ void __launch_bounds__(Tile<kSide>::kThreads) eigh_kernel(Symmetric m, int most_sweeps) {
  Tile<kSide>& tile = *dynamic_shared<Tile<kSide>>();
  const int n = m.n;
  const double* data = m.data + int64_t(blockIdx.x) * n * n;
  const Loaded loaded =
      load_tile(tile, n, n, 1.25, [&](int r, int c) { return r > c ? data[r * n + c] : data[c * n + r]; });
  const int sweeps = turn_all(tile, n, n, most_sweeps);
  sort_norms(tile, n, n, false);
  double* vectors = m.vectors + int64_t(blockIdx.x) * n * n;
  for (int e = int(threadIdx.x); e < n * n; e += Tile<kSide>::kThreads) {
    const int from = tile.order[e % n];
    vectors[e] = tile.norm[from] > 0 ? tile.column[from][e / n] / tile.norm[from] : double(from == e / n);
  }
  if (int(threadIdx.x) < n)
    m.values[int64_t(blockIdx.x) * n + threadIdx.x] =
        sweeps < 0 ? kNan : (tile.norm[tile.order[threadIdx.x]] - loaded.shift) / loaded.scale;
  if (m.sweeps && threadIdx.x == 0) m.sweeps[blockIdx.x] = sweeps;
}

template <int kSide>
__global__ void __launch_bounds__(Tile<kSide>::kThreads) singular_values_kernel(General m, int most_sweeps) {
  Tile<kSide>& tile = *dynamic_shared<Tile<kSide>>();
  const double* data = m.data + int64_t(blockIdx.x) * m.matrix_stride;
  const Loaded loaded = load_tile(tile, m.rows, m.columns, 0.0,
                                  [&](int r, int c) { return data[r * m.row_stride + c * m.column_stride]; });
  const int sweeps = turn_all(tile, m.rows, m.columns, most_sweeps);
  sort_norms(tile, m.rows, m.columns, true);
  if (int(threadIdx.x) < m.columns)
    m.values[int64_t(blockIdx.x) * m.columns + threadIdx.x] =
        sweeps < 0 ? kNan : tile.norm[tile.order[threadIdx.x]] / loaded.scale;
  if (m.sweeps && threadIdx.x == 0) m.sweeps[blockIdx.x] = sweeps;
}

// Calls start(side) with the smallest tile that holds `needed`, as a constant.
template <class Start> cudaError_t with_side(int needed, Start start) {
  if (needed <= 16) return start(std::integral_constant<int, 16>{});
  if (needed <= 32) return start(std::integral_constant<int, 32>{});
  if (needed <= 64) return start(std::integral_constant<int, 64>{});
  if (needed <= kLargestSide) return start(std::integral_constant<int, kLargestSide>{});
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t eigh(const Symmetric& matrices, int most_sweeps, cudaStream_t stream) {
  if (!matrices.count || !matrices.n) return cudaSuccess;
  return with_side(matrices.n, [&](auto side) {
    using Shared = Tile<side.value>;
    return launch({unsigned(matrices.count), Shared::kThreads, sizeof(Shared), stream}, eigh_kernel<side.value>,
                  matrices, most_sweeps);
  });
}

cudaError_t singular_values(const General& matrices, int most_sweeps, cudaStream_t stream) {
  if (!matrices.count || !matrices.rows || !matrices.columns) return cudaSuccess;
  General tall = matrices;  // fewer columns, fewer pairs
  if (tall.rows < tall.columns) {
    std::swap(tall.rows, tall.columns);
    std::swap(tall.row_stride, tall.column_stride);
  }
  return with_side(tall.rows, [&](auto side) {
    using Shared = Tile<side.value>;
    return launch({unsigned(tall.count), Shared::kThreads, sizeof(Shared), stream}, singular_values_kernel<side.value>,
                  tall, most_sweeps);
  });
}

}  // namespace prunecca::cuda
