#pragma once
#include <vector>

#include "../masks.hpp"  // without the dots, this file

namespace prunecca::cpu {

void masked_copy(const std::vector<Masked>& tensors, int threads);
std::vector<int64_t> count_kept(const std::vector<Counted>& masks, int threads);

}  // namespace prunecca::cpu
