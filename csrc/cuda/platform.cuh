// What every kernel file needs of CUDA, or of its emulation on the host (tests/cuda/emulated), and the way to launch.
//
// Shared memory is taken with static_shared<T>() (T: a struct, up to 16 KiB in all) or dynamic_shared<T>(), never
// with __shared__, so that the emulation can poison it before every block, and count it.
#pragma once
#include <cstdint>

#ifdef PRUNECCA_CUDA_EMULATION
#include "emulation.hpp"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace prunecca::cuda {

using Half = __half;
using Bfloat = __nv_bfloat16;

struct Launch {
  dim3 grid, block;
  size_t shared = 0;  // bytes of dynamic shared memory
  cudaStream_t stream = nullptr;
};

// Starts a kernel. Nothing here allocates, synchronises or breaks a stream capture.
template <class... Parameters, class... Arguments>
cudaError_t launch(const Launch& where, void (*kernel)(Parameters...), Arguments&&... arguments) {
  // More than 48 KiB is granted per kernel and per device. A kernel's static shared memory counts as well: no kernel
  // here has more than 16 KiB of that.
  if (where.shared > (32 << 10)) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, int(where.shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = where.grid;
  config.blockDim = where.block;
  config.dynamicSmemBytes = where.shared;
  config.stream = where.stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

template <class T> __device__ __forceinline__ T* dynamic_shared() {
#ifdef PRUNECCA_CUDA_EMULATION
  return static_cast<T*>(emu::dynamic_shared());
#else
  extern __shared__ __align__(128) unsigned char prunecca_dynamic_shared[];
  return reinterpret_cast<T*>(prunecca_dynamic_shared);
#endif
}

template <class T> __device__ __forceinline__ T& static_shared() {
#ifdef PRUNECCA_CUDA_EMULATION
  return emu::static_shared<T>();
#else
  static_assert(sizeof(T) <= (16 << 10), "launch() leaves no more beside dynamic shared memory");
  __shared__ T memory;
  return memory;
#endif
}

// Exact widening of the storage types.
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(Half x) { return __half2float(x); }
__device__ __forceinline__ float widen(Bfloat x) { return __bfloat162float(x); }

}  // namespace prunecca::cuda
