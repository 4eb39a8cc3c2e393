// One step of Adam, or of SGD with momentum, on many masked tensors at once: what the kernels of both devices take.
//
// Bandwidth decides: weight, gradient and moments pass through once, and the mask acts on the way. At a masked entry
// the gradient counts as zero, the moments become +0, and the weight becomes +0 (or stays as it is, for networks whose
// pruned weights are frozen at a value). Moments are float64 where the weight is, otherwise float32.
#pragma once
#include "array.hpp"

namespace prunecca {

// What draws the weights of one tensor towards few of them, before some are pruned. All zero: nothing does.
struct Penalty {
  const void* anchor = nullptr;  // of a moment's dtype; null: there is no pull
  double pull = 0;               // pull * (weight - anchor) is added to the gradient
  double l1 = 0;                 // l1 * sign(weight) is added to the gradient
  double threshold = 0;          // what the step leaves is shrunk by this, and is +0 where it was no larger; where the
                                 // learning rate lies on a CUDA device, by this times that rate
  bool any() const { return anchor || l1 != 0 || threshold != 0; }
};

struct AdamTensor {
  void* weight;          // dtype
  const void* gradient;  // dtype
  void* mean;
  void* square;
  const uint8_t* mask;  // null: no entry is masked
  int64_t size;
  Dtype dtype;
  double step_size;   // learning rate / (1 - beta1^step)
  double root_scale;  // 1 / sqrt(1 - beta2^step)
  Penalty penalty{};
  std::array<const void*, 5> addresses() const { return {weight, gradient, mean, square, mask}; }
};

// What changes from step to step, in device memory, so that a captured CUDA graph can be replayed.
struct Schedule {
  double step_size, root_scale, shrink, rate;
};

struct AdamRule {
  double beta1, beta2, epsilon;
  double l2;         // added to the gradient, times the weight
  double shrink;     // the weight is first multiplied by this: 1 - learning rate * decoupled decay
  bool keep_masked;  // leave masked weights as they are
  const Schedule* schedule =
      nullptr;  // on a CUDA device: if given, takes the place of step_size, root_scale and shrink
};

struct SgdTensor {
  void* weight;
  const void* gradient;
  void* momentum;  // null where the rule has no momentum
  const uint8_t* mask;
  int64_t size;
  Dtype dtype;
  bool first;  // the momentum holds nothing yet: it becomes the gradient
  Penalty penalty{};
  std::array<const void*, 4> addresses() const { return {weight, gradient, momentum, mask}; }
};

struct SgdRule {
  double rate, momentum, dampening, l2;
  bool nesterov, keep_masked;
  const float* device_rate = nullptr;  // on a CUDA device: if given, takes the place of rate
};

}  // namespace prunecca
