// Runs CUDA kernels on the host: what platform.cuh includes in place of <cuda_runtime.h> when
// PRUNECCA_CUDA_EMULATION is defined. types.hpp has the types, fibers.hpp the execution model, this file the
// functions that device code and launchers call.
#pragma once
#include <cmath>
#include <functional>
#include <limits>
#include <tuple>

#include "fibers.hpp"

// ---- Streams: work is done at once on the default stream, that of others when they are joined ----------------------
using cudaStream_t = void*;
namespace emu {
inline std::map<cudaStream_t, std::vector<std::function<void()>>> waiting;
template <class Work> void on(cudaStream_t stream, Work work) {
  if (stream)
    waiting[stream].push_back(std::move(work));
  else
    work();
}
// Does all that waits, each stream's work in order, taking turns between streams by chance.
inline void join(unsigned seed) {
  std::mt19937 rng{seed};
  std::map<cudaStream_t, size_t> done;
  while (!waiting.empty()) {
    const auto chosen = std::next(waiting.begin(), rng() % waiting.size());
    auto& [stream, works] = *chosen;
    works[done[stream]++]();
    if (done[stream] == works.size()) waiting.erase(chosen);
  }
}
}  // namespace emu

// ---- The part of the runtime API that a launcher needs ------------------------------------------------------------
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
inline const char* cudaGetErrorString(cudaError_t e) { return e ? "invalid configuration" : "no error"; }
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (size_t(value) > emu::kMostShared) return cudaErrorInvalidValue;
  emu::granted_shared[kernel] = size_t(value);
  return cudaSuccess;
}
struct cudaLaunchAttribute {};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* c, void (*kernel)(P...), A&&... a) {
  const dim3 g = c->gridDim, b = c->blockDim;
  if (!g.x || !g.y || !g.z || g.y > 65535 || g.z > 65535) return cudaErrorInvalidConfiguration;
  if (b.x * b.y * b.z < 1 || b.x * b.y * b.z > 1024 || c->dynamicSmemBytes > emu::kMostShared)
    return cudaErrorInvalidConfiguration;
  const auto granted = emu::granted_shared.find(reinterpret_cast<const void*>(kernel));
  const bool opted_in = granted != emu::granted_shared.end();
  if (c->dynamicSmemBytes > (opted_in ? granted->second : emu::kPlainShared)) return cudaErrorInvalidValue;
  // Arguments are copied now: when a stream that waits comes to the kernel, what they were made of may be gone.
  emu::on(c->stream,
          [g, b, shared = c->dynamicSmemBytes, opted_in, kernel, arguments = std::tuple<P...>(std::forward<A>(a)...)] {
            emu::launch(g, b, shared, opted_in, [&] { std::apply(kernel, arguments); });
          });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  emu::on(stream, [=] { std::memset(p, value, bytes); });
  return cudaSuccess;
}

// ---- Tensor cores -----------------------------------------------------------------------------------------------
namespace emu {
// The sum of exact numbers as tensor cores make it: each is cut, towards zero, to the bits that reach down to one below
// the last of the largest one's float32, and so is their sum to float32. One is what an A100 keeps, and a Hopper more:
// Fasi, Higham, Mikaitis, Pranesh 2021, "Numerical behavior of NVIDIA tensor cores".
template <int kCount> float tensor_core_sum(const double (&addends)[kCount]) {
  double largest = 0, sum = 0;
  for (double a : addends) {
    largest = std::max(largest, std::abs(a));
    sum += a;
  }
  if (largest == 0 || !std::isfinite(sum)) return float(sum);
  const double last = std::ldexp(1.0, std::ilogb(largest) - 24);
  sum = 0;
  for (double a : addends) sum += std::trunc(a / last) * last;  // exact: few bits
  const float rounded = float(sum);
  return std::abs(double(rounded)) > std::abs(sum) ? std::nextafter(rounded, 0.f) : rounded;
}
}  // namespace emu

// ---- Barriers, fences, warp operations ----------------------------------------------------------------------------
constexpr int warpSize = 32;
inline void __syncthreads() { emu::sync_block(); }
inline int __syncthreads_count(int p) { return emu::sync_block(p); }
inline int __syncthreads_or(int p) { return emu::sync_block(p) > 0; }
inline int __syncthreads_and(int p) { return emu::sync_block(!p) == 0; }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __syncwarp(unsigned mask = ~0u) {
  emu::gather(mask, 0, [](auto, unsigned) { return 0; });
}
template <class T> T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  return emu::gather(mask, v, [&](auto get, unsigned l) {
    return get((l & ~unsigned(width - 1)) | (unsigned(source) & unsigned(width - 1)));
  });
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32) {
  return emu::gather(mask, v, [&](auto get, unsigned l) { return l % width + d < unsigned(width) ? get(l + d) : v; });
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32) {
  return emu::gather(mask, v, [&](auto get, unsigned l) { return l % width >= d ? get(l - d) : v; });
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32) {
  return emu::gather(mask, v, [&](auto get, unsigned l) {
    const unsigned s = l ^ unsigned(x);
    return s / width <= l / width ? get(s) : v;
  });
}
inline unsigned __ballot_sync(unsigned mask, int p) {
  return emu::gather(mask, p, [&](auto get, unsigned) {
    unsigned r = 0;
    for (unsigned l = 0; l < 32; ++l)
      if (mask >> l & 1 && get(l)) r |= 1u << l;
    return r;
  });
}
inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, p) == mask; }
inline unsigned __activemask() { return emu::block->warps[emu::block->current->rank / 32].alive; }
template <class T> unsigned __match_any_sync(unsigned mask, T v) {
  return emu::gather(mask, v, [&](auto get, unsigned) {
    unsigned r = 0;
    for (unsigned l = 0; l < 32; ++l)
      if (mask >> l & 1 && get(l) == v) r |= 1u << l;
    return r;
  });
}
template <class T> T __reduce_add_sync(unsigned mask, T v) {
  return emu::gather(mask, v, [&](auto get, unsigned) {
    T r{};
    for (unsigned l = 0; l < 32; ++l)
      if (mask >> l & 1) r += get(l);
    return r;
  });
}

// ---- Atomics: fibers never interrupt each other, so a plain read-modify-write is atomic -----------------------------
template <class T> T atomicAdd(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p = T(old + v);
  return old;
}
template <class T> T atomicMax(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p = std::max(old, v);
  return old;
}
template <class T> T atomicMin(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p = std::min(old, v);
  return old;
}
template <class T> T atomicOr(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p = T(old | v);
  return old;
}
template <class T> T atomicExch(T* p, std::type_identity_t<T> v) {
  const T old = *p;
  *p = v;
  return old;
}
template <class T> T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  const T old = *p;
  if (old == expected) *p = v;
  return old;
}

// ---- Loads, stores, bits, arithmetic --------------------------------------------------------------------------------
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> void __stcs(T* p, std::type_identity_t<T> v) { *p = v; }
template <class T> void __stcg(T* p, std::type_identity_t<T> v) { *p = v; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline double rsqrt(double x) { return 1. / std::sqrt(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
using std::isfinite;
using std::isnan;
using std::max;
using std::min;
