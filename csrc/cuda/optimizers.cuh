// One step of Adam, or of SGD with momentum, on many masked tensors in one launch: cpu/optimizers.hpp on a CUDA device.
//
// At a masked entry the gradient counts as zero, the moments become +0, and the weight becomes +0 (or stays as it is).
#pragma once
#include <array>
#include <vector>

#include "array.hpp"
#include "cuda/platform.cuh"

namespace prunecca::cuda {

struct AdamTensor {
  void* weight;          // dtype of the call
  const void* gradient;
  void* mean;            // float64 where the dtype is float64, otherwise float32
  void* square;
  const uint8_t* mask;   // null: no entry is masked
  int64_t size;
  double step_size;      // learning rate / (1 - beta1^step)
  double root_scale;     // 1 / sqrt(1 - beta2^step)
  std::array<const void*, 5> addresses() const { return {weight, gradient, mean, square, mask}; }
};

// What changes from step to step, in device memory, so that a captured CUDA graph can be replayed.
struct Schedule {
  double step_size, root_scale, shrink;
};

struct AdamRule {
  double beta1, beta2, epsilon;
  double l2;                           // added to the gradient, times the weight
  double shrink;                       // the weight is first multiplied by this: 1 - learning rate * decoupled decay
  bool keep_masked;                    // leave masked weights as they are
  const Schedule* schedule = nullptr;  // if given, takes the place of step_size, root_scale and shrink
};

// One launch for all tensors (one per 420 of them). All tensors have the dtype.
cudaError_t adam_step(const std::vector<AdamTensor>& tensors, Dtype dtype, const AdamRule& rule, cudaStream_t stream);

// Adds one to *step and fills *schedule for it: a launch of one thread. step, rate, schedule: device memory.
cudaError_t advance(float* step, const float* rate, double beta1, double beta2, double decoupled_decay, Schedule* schedule,
                    cudaStream_t stream);

struct SgdTensor {
  void* weight;
  const void* gradient;
  void* momentum;  // null where the rule has no momentum; float64 where the dtype is float64, otherwise float32
  const uint8_t* mask;
  int64_t size;
  bool first;      // the momentum holds nothing yet: it becomes the gradient
  std::array<const void*, 4> addresses() const { return {weight, gradient, momentum, mask}; }
};

struct SgdRule {
  double rate, momentum, dampening, l2;
  bool nesterov, keep_masked;
  const float* device_rate = nullptr;  // if given, takes the place of rate
};

cudaError_t sgd_step(const std::vector<SgdTensor>& tensors, Dtype dtype, const SgdRule& rule, cudaStream_t stream);

}  // namespace prunecca::cuda
