// Selects the lowest scores among the survivors of a pool of tensors, and clears them in the masks.
#pragma once
#include <vector>

#include "../threshold.hpp"  // without the dots, this file

namespace prunecca::cpu {

// Writes mask = alive without the `count` survivors of lowest score; ties go by position in the
// concatenation of the tensors. All tensors have one dtype. Returns -1; or the index of the first tensor with a NaN at
// a survivor. Throws when there are fewer than `count` survivors. After a NaN or too few survivors, masks other than
// `alive` mean nothing.
int64_t prune_lowest(const std::vector<Scores>& pool, Dtype dtype, Order order, int64_t count, int threads);

}  // namespace prunecca::cpu
