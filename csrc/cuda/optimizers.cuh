// cpu/optimizers.hpp on a CUDA device: each step is one launch for all tensors (one per 420 of them), and one
// for those that a penalty draws (one per 384).
#pragma once
#include <vector>

#include "cuda/platform.cuh"
#include "optimizers.hpp"

namespace prunecca::cuda {

// All tensors have the dtype.
cudaError_t adam_step(const std::vector<AdamTensor>& tensors, Dtype dtype, const AdamRule& rule, cudaStream_t stream);

// Adds one to *step and fills *schedule for it: a launch of one thread. step, rate, schedule: device memory.
cudaError_t advance(float* step, const float* rate, double beta1, double beta2, double decoupled_decay,
                    Schedule* schedule, cudaStream_t stream);

cudaError_t sgd_step(const std::vector<SgdTensor>& tensors, Dtype dtype, const SgdRule& rule, cudaStream_t stream);

}  // namespace prunecca::cuda
