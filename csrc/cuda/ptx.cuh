// The few operations that need PTX, one function each, with a host branch for the emulation.
//
// Fragment layouts are those of the PTX manual: lane = 4 * g + t, g = 0..7, t = 0..3.
#pragma once
#include "cuda/platform.cuh"

namespace prunecca::cuda {

#if !defined(PRUNECCA_CUDA_EMULATION)
__device__ __forceinline__ unsigned shared_address(const void* p) { return unsigned(__cvta_generic_to_shared(p)); }
#endif

// Copies kBytes (4, 8 or 16) from device to shared memory in the background; when !wanted, zeros are written instead
// and nothing is read. The copies land at the wait for the group they were committed in.
template <int kBytes> __device__ __forceinline__ void copy_async(void* to, const void* from, bool wanted = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#if defined(PRUNECCA_CUDA_EMULATION)
  emu::copy_async(to, from, kBytes, wanted ? kBytes : 0);
#else
  const int bytes = wanted ? kBytes : 0;
  if constexpr (kBytes == 16) {  // .cg: past L1, which nothing would find again
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(kBytes),
                 "r"(bytes));
  }
#endif
}

__device__ __forceinline__ void commit_copies() {
#if defined(PRUNECCA_CUDA_EMULATION)
  emu::commit_copies();
#else
  asm volatile("cp.async.commit_group;");
#endif
}

// Waits until at most kLeft of this thread's committed groups are under way. Other threads need a barrier after it.
template <int kLeft> __device__ __forceinline__ void wait_copies() {
#if defined(PRUNECCA_CUDA_EMULATION)
  emu::wait_copies(kLeft);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

// The TF32 number (11 significant bits) nearest to x, ties away from zero, as a float: two instructions, where
// cvt.rna.tf32 is four. Infinity stays itself. A NaN may become any number, so what is left of x must be used as well.
__device__ __forceinline__ float round_to_tf32(float x) {
  return __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xffffe000u);
}

// D (16 x 8, float32) += A (16 x 8, TF32) B (8 x 8, TF32). The low 13 bits of a and b are ignored.
// a = {(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)}, b = {(t, g), (t + 4, g)},
// d = {(g, 2t), (g, 2t + 1), (g + 8, 2t), ...}.
__device__ __forceinline__ void multiply_tf32(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
#if defined(PRUNECCA_CUDA_EMULATION)
  // Four rows of B at a time, as an A100 has them: an emulated result is not better than a real one.
  struct Lane {
    float a[4], b[2];
  } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  emu::gather(~0u, mine, [&](auto get, unsigned lane) {
    auto cut = [](float x) { return double(__uint_as_float(__float_as_uint(x) & 0xffffe000u)); };
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned half = 0; half < 2; ++half)
      for (unsigned i = 0; i < 4; ++i) {
        double addends[5] = {d[i]};
        for (unsigned k = 0; k < 4; ++k)
          addends[1 + k] = cut(get(4 * g + k).a[i / 2 + 2 * half]) * cut(get(8 * t + 4 * (i % 2) + k).b[half]);
        d[i] = emu::tensor_core_sum(addends);
      }
    return 0;
  });
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}

// D (8 x 8, float64) += A (8 x 4) B (4 x 8): a = (g, t), b = (t, g), d = {(g, 2t), (g, 2t + 1)}.
__device__ __forceinline__ void multiply_f64_small(double& d0, double& d1, double a, double b) {
#if defined(PRUNECCA_CUDA_EMULATION)
  struct Lane {
    double a, b;
  } mine{a, b};
  emu::gather(~0u, mine, [&](auto get, unsigned lane) {
    for (unsigned k = 0; k < 4; ++k) {
      d0 = std::fma(get(lane / 4 * 4 + k).a, get((lane % 4 * 2) * 4 + k).b, d0);
      d1 = std::fma(get(lane / 4 * 4 + k).a, get((lane % 4 * 2 + 1) * 4 + k).b, d1);
    }
    return 0;
  });
#else
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
      : "+d"(d0), "+d"(d1)
      : "d"(a), "d"(b));
#endif
}

// D (16 x 8, float64) += A (16 x kDepth) B (kDepth x 8) for a depth of 8 or 16: one instruction from Hopper on.
// a = {(g, t), (g + 8, t), (g, t + 4), ...}, b = {(t, g), (t + 4, g), ...}, d as that of multiply_tf32.
template <int kDepth>
__device__ __forceinline__ void multiply_f64(double (&d)[4], const double (&a)[kDepth / 2],
                                             const double (&b)[kDepth / 4]) {
  static_assert(kDepth == 8 || kDepth == 16);
#if !defined(PRUNECCA_CUDA_EMULATION) && __CUDA_ARCH__ >= 900
  if constexpr (kDepth == 16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7,%8,%9,%10,%11}, {%12,%13,%14,%15}, {%0,%1,%2,%3};"
        : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3])
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]), "d"(b[0]), "d"(b[1]),
          "d"(b[2]), "d"(b[3]));
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3])
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b[0]), "d"(b[1]));
  }
#else
#pragma unroll
  for (int i = 0; i < kDepth / 4; ++i) {
    multiply_f64_small(d[0], d[1], a[2 * i], b[i]);
    multiply_f64_small(d[2], d[3], a[2 * i + 1], b[i]);
  }
#endif
}

}  // namespace prunecca::cuda
