// Each function is one launch for all tensors given (one per 420 of them).
#pragma once
#include <vector>

#include "cuda/platform.cuh"
#include "masks.hpp"

namespace prunecca::cuda {

// Tensors of one itemsize. In place, only memory that the mask changes is touched.
cudaError_t masked_copy(const std::vector<Masked>& tensors, int itemsize, cudaStream_t stream);

// kept[i] = how many entries of mask i are set; kept: device memory.
cudaError_t count_kept(const std::vector<Counted>& masks, int64_t* kept, cudaStream_t stream);

}  // namespace prunecca::cuda
