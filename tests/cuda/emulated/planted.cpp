// A block sum, right and with one mistake each, to show that the emulation catches them.
#include "cuda/ptx.cuh"
#include "cuda/reduce.cuh"
#include "harness.hpp"

using namespace prunecca::cuda;

enum class Bug {
  none,
  missing_barrier,
  missing_wait,
  divergent_barrier,
  wrong_mask,
  read_past,
  write_past,
  uninitialised
};

struct Storage {
  float partial[8], staged[256], scratch[8];
};

// out[0]: the sum; out[1]: the sum again, by way of asynchronous copies.
template <Bug kBug> __global__ void sums(const float* x, float* out, int n) {
  auto& s = *dynamic_shared<Storage>();
  const int tid = int(threadIdx.x), lane = tid % 32;
  float sum = 0;
  for (int i = tid; i < (kBug == Bug::read_past ? n + 1 : n); i += 256) sum += x[i];
  sum = warp_sum(sum);
  if (lane == 0) s.partial[kBug == Bug::write_past ? tid / 32 + 1 : tid / 32] = sum;
  if constexpr (kBug != Bug::missing_barrier) __syncthreads();
  if (tid == 0) {
    float total = 0;
    for (float p : s.partial) total += p;
    if (kBug == Bug::uninitialised) total += s.scratch[0];
    out[0] = total;
  }
  if constexpr (kBug == Bug::divergent_barrier) {
    if (tid < 40)
      __syncthreads();
    else
      __syncwarp();
  }
  if (kBug == Bug::wrong_mask && lane == 7) __shfl_xor_sync(0xfu, sum, 1);

  sum = 0;
  for (int first = 0; first < n; first += 256) {
    __syncthreads();
    copy_async<4>(&s.staged[tid], x + (first + tid < n ? first + tid : 0), first + tid < n);
    commit_copies();
    if constexpr (kBug != Bug::missing_wait) wait_copies<0>();
    __syncthreads();
    sum += s.staged[255 - tid];
  }
  sum = block_sum<256>(sum, s.scratch);
  if (tid == 0) out[1] = sum;
}

struct Large {
  float words[2 << 10];
};  // 8 KiB of static shared memory

__global__ void fill(float* out) {
  dynamic_shared<float>()[0] = 1;
  static_shared<Large>().words[0] = 2;
  out[0] = dynamic_shared<float>()[0] + static_shared<Large>().words[0];
}

__global__ void convert(const float* x, Half* half, float* back, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  half[i] = __float2half_rn(x[i]);
  back[i] = widen(half[i]);
}

int main() {
  return harness::serve([](harness::Request& r) -> cudaError_t {
    constexpr void (*kernels[])(const float*, float*, int) = {
        sums<Bug::none>,       sums<Bug::missing_barrier>, sums<Bug::missing_wait>, sums<Bug::divergent_barrier>,
        sums<Bug::wrong_mask>, sums<Bug::read_past>,       sums<Bug::write_past>,   sums<Bug::uninitialised>};
    const int64_t bug = r.integer();
    const int n = int(r.integer());
    const float* x = r.array<float>();
    if (bug == -2) {  // n bytes of dynamic shared memory: by way of launch(), or asking for no more than is free
      float* out = r.array<float>();
      if (n > 0) return launch({dim3(1), dim3(1), size_t(n)}, fill, out);
      cudaLaunchConfig_t config{};
      config.dynamicSmemBytes = size_t(-n);
      return cudaLaunchKernelEx(&config, fill, out);
    }
    if (bug < 0) {
      Half* half = r.array<Half>();
      return launch({dim3(unsigned(n + 63) / 64), dim3(64)}, convert, x, half, r.array<float>(), n);
    }
    return launch({dim3(1), dim3(256), sizeof(Storage)}, kernels[bug], x, r.array<float>(), n);
  });
}
