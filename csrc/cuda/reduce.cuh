// Sums and running sums over a warp and a block, always in the same order.
#pragma once
#include "cuda/platform.cuh"

namespace prunecca::cuda {

// Every lane gets the sum over the kWidth neighbouring lanes it belongs to (a power of two).
template <int kWidth = 32, class T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int d = kWidth / 2; d; d /= 2) x += __shfl_xor_sync(~0u, x, d);
  return x;
}

// Thread 0 gets the sum over the block of kThreads threads. `scratch` holds kThreads / 32 values and may be used again
// after the next barrier.
template <int kThreads, class T> __device__ __forceinline__ T block_sum(T x, T* scratch) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  if (threadIdx.x < 32) x = warp_sum(threadIdx.x < kThreads / 32 ? scratch[threadIdx.x] : T(0));
  return x;
}

template <class T> struct Scan {
  T before;  // sum over the threads of lower rank
  T total;   // sum over the block
};

// Every thread gets its running sum. `scratch` holds kThreads / 32 values and may be used again after the next barrier.
template <int kThreads, class T> __device__ __forceinline__ Scan<T> block_scan(T x, T* scratch) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  T sum = x;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const T left = __shfl_up_sync(~0u, sum, d);
    if (threadIdx.x % 32 >= unsigned(d)) sum += left;
  }
  if (threadIdx.x % 32 == 31) scratch[threadIdx.x / 32] = sum;
  __syncthreads();
  Scan<T> scan{sum - x, T(0)};
#pragma unroll
  for (unsigned w = 0; w < kThreads / 32; ++w) {
    if (w < threadIdx.x / 32) scan.before += scratch[w];
    scan.total += scratch[w];
  }
  return scan;
}

}  // namespace prunecca::cuda
