// What benchmarks/cuda/harness/harness.hpp asks of a device, on the host: so that the harness itself is tested without one.
#pragma once
#include "cuda/platform.cuh"

enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDefault = 4 };
enum { cudaStreamNonBlocking = 1 };

inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = emu::aligned_memory(bytes, 256);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  static uintptr_t made = 0;
  *stream = reinterpret_cast<void*>(++made);
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
  emu::join(0);
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
