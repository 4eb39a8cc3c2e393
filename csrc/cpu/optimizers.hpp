// One step of Adam, or of SGD with momentum, on many masked tensors at once.
//
// Bandwidth decides: weight, gradient and moments pass through the cache once, and the mask acts on the way.
// At a masked entry the gradient counts as zero, the moments become +0, and the weight becomes +0 (or stays
// as it is, for networks whose pruned weights are frozen at a value).
#pragma once
#include <cstdint>
#include <vector>

#include "array.hpp"

namespace prunecca::cpu {

struct AdamTensor {
  void* weight;          // dtype
  const void* gradient;  // dtype
  void* mean;            // float64 where dtype is float64, otherwise float32; as is
  void* square;
  const uint8_t* mask;   // null: no entry is masked
  int64_t size;
  Dtype dtype;
  double step_size;      // learning rate / (1 - beta1^step)
  double root_scale;     // 1 / sqrt(1 - beta2^step)
};

struct AdamRule {
  double beta1, beta2, epsilon;
  double l2;             // added to the gradient, times the weight
  double shrink;         // the weight is first multiplied by this: 1 - learning rate * decoupled decay
  bool keep_masked;      // leave masked weights as they are
};

void adam_step(const std::vector<AdamTensor>& tensors, const AdamRule& rule, int threads);

struct SgdTensor {
  void* weight;
  const void* gradient;
  void* momentum;        // null where the rule has no momentum
  const uint8_t* mask;
  int64_t size;
  Dtype dtype;
  bool first;            // the momentum holds nothing yet: it becomes the gradient
};

struct SgdRule {
  double rate, momentum, dampening, l2;
  bool nesterov, keep_masked;
};

void sgd_step(const std::vector<SgdTensor>& tensors, const SgdRule& rule, int threads);

}  // namespace prunecca::cpu
