#include "cpu/optimizers.hpp"

#include "cpu/optimizers_kernel.hpp"
#include "cpu/thread_parts.hpp"

namespace prunecca::cpu {

namespace {

StepKernel chosen_kernel() {
  return at_simd_level([](auto level) { return step_kernel(level); });
}

template <class Tensor, class Step> void each_part(const std::vector<Tensor>& tensors, int threads, Step&& step) {
  const int parts = useful_threads(total_size(tensors), threads);
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int part = 0; part < parts; ++part)
    for_part(tensors, part, parts, [&](const Tensor& t, int64_t begin, int64_t end, int64_t) { step(t, begin, end); });
}

}  // namespace

void adam_step(const std::vector<AdamTensor>& tensors, const AdamRule& rule, int threads) {
  const StepKernel kernel = chosen_kernel();
  each_part(tensors, threads,
            [&](const AdamTensor& t, int64_t begin, int64_t end) { kernel.adam(t, begin, end, rule); });
}

void sgd_step(const std::vector<SgdTensor>& tensors, const SgdRule& rule, int threads) {
  const StepKernel kernel = chosen_kernel();
  each_part(tensors, threads, [&](const SgdTensor& t, int64_t begin, int64_t end) { kernel.sgd(t, begin, end, rule); });
}

}  // namespace prunecca::cpu
