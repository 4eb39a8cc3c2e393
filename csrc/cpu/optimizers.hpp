#pragma once
#include <vector>

#include "../optimizers.hpp"  // without the dots, this file

namespace prunecca::cpu {

void adam_step(const std::vector<AdamTensor>& tensors, const AdamRule& rule, int threads);
void sgd_step(const std::vector<SgdTensor>& tensors, const SgdRule& rule, int threads);

}  // namespace prunecca::cpu
