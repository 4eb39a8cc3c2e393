// The optimizer kernels, emulated. Scalars: 0 (Adam) or 1 (SGD), dtype, the rule, the number of tensors, then per
// tensor its numbers, its size, the offset of its first element, whether it has a mask (and, for SGD, a momentum). With
// penalties (2 and 3 in place of 0 and 1) per tensor pull, l1, threshold and whether it has an anchor; anchors come last.
#include "cuda/optimizers.cu"
#include "harness.hpp"

using namespace prunecca;
using namespace prunecca::cuda;

template <class Tensor> static void penalise(harness::Request& r, std::vector<Tensor>& tensors,
                                             const std::vector<int64_t>& offsets) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    Tensor& t = tensors[i];
    const double pull = r.real(), l1 = r.real(), threshold = r.real();
    const bool anchored = r.integer();
    const char* anchor = r.array<char>();
    t.penalty = {anchored ? anchor + offsets[i] * (t.dtype == Dtype::float64 ? 8 : 4) : nullptr, pull, l1, threshold};
  }
}

static cudaError_t adam(harness::Request& r, bool drawn) {
  const Dtype dtype = Dtype(r.integer());
  const int64_t real = dtype == Dtype::float64 ? 8 : 4;
  AdamRule rule{};
  rule.beta1 = r.real(), rule.beta2 = r.real(), rule.epsilon = r.real(), rule.l2 = r.real(), rule.shrink = r.real();
  rule.keep_masked = r.integer();
  const bool on_device = r.integer();
  const double decay = r.real();
  std::vector<AdamTensor> tensors;
  std::vector<int64_t> offsets;
  const int64_t count = r.integer();
  for (int64_t i = 0; i < count; ++i) {
    const double step_size = r.real(), root_scale = r.real();
    const int64_t size = r.integer(), offset = r.integer();
    offsets.push_back(offset);
    const bool masked = r.integer();
    char *weight = r.array<char>(), *gradient = r.array<char>(), *mean = r.array<char>(), *square = r.array<char>();
    const uint8_t* mask = r.array<uint8_t>();
    tensors.push_back({weight + offset * size_of(dtype), gradient + offset * size_of(dtype), mean + offset * real,
                       square + offset * real, masked ? mask + offset : nullptr, size, dtype, step_size, root_scale});
  }
  auto* schedule = static_cast<Schedule*>(harness::scratch(sizeof(Schedule), 0xff));
  cudaError_t error = cudaSuccess;
  if (on_device) {
    float* step = r.array<float>();
    const float* rate = r.array<float>();
    error = advance(step, rate, rule.beta1, rule.beta2, decay, schedule, nullptr);
    rule.schedule = schedule;
  }
  if (drawn) penalise(r, tensors, offsets);
  if (error == cudaSuccess) error = adam_step(tensors, dtype, rule, nullptr);
  harness::release(schedule);
  return error;
}

static cudaError_t sgd(harness::Request& r, bool drawn) {
  const Dtype dtype = Dtype(r.integer());
  SgdRule rule{};
  rule.rate = r.real(), rule.momentum = r.real(), rule.dampening = r.real(), rule.l2 = r.real();
  rule.nesterov = r.integer(), rule.keep_masked = r.integer();
  const bool on_device = r.integer();
  std::vector<SgdTensor> tensors;
  std::vector<int64_t> offsets;
  const int64_t count = r.integer();
  for (int64_t i = 0; i < count; ++i) {
    const bool first = r.integer();
    const int64_t size = r.integer(), offset = r.integer();
    offsets.push_back(offset);
    const bool masked = r.integer(), moving = r.integer();
    char *weight = r.array<char>(), *gradient = r.array<char>(), *momentum = r.array<char>();
    const uint8_t* mask = r.array<uint8_t>();
    tensors.push_back({weight + offset * size_of(dtype), gradient + offset * size_of(dtype),
                       moving ? momentum + offset * (dtype == Dtype::float64 ? 8 : 4) : nullptr,
                       masked ? mask + offset : nullptr, size, dtype, first});
  }
  if (on_device) rule.device_rate = r.array<float>();
  if (drawn) penalise(r, tensors, offsets);
  return sgd_step(tensors, dtype, rule, nullptr);
}

int main() {
  return harness::serve([](harness::Request& r) {
    const int64_t method = r.integer();
    return method % 2 ? sgd(r, method > 1) : adam(r, method > 1);
  });
}
