// The threshold kernels, emulated. Scalars: dtype, order, pools, number of tensors, then per tensor its size, its
// pool, the offset of its first element, and whether it has survivors so far (0: all; 1: in an array of their own;
// 2: in the mask that is written).
#include "cuda/threshold.cu"
#include "harness.hpp"

using namespace prunecca;
using namespace prunecca::cuda;

int main() {
  return harness::serve([](harness::Request& r) -> cudaError_t {
    Selection selection;
    selection.dtype = Dtype(r.integer());
    selection.order = Order(r.integer());
    selection.pools = int(r.integer());
    const int64_t count = r.integer();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t size = r.integer(), pool = r.integer(), offset = r.integer(), survivors = r.integer();
      const void* data = r.array<char>() + offset * size_of(selection.dtype);
      const uint8_t* alive = survivors == 1 ? r.array<uint8_t>() + offset : nullptr;
      uint8_t* mask = r.array<uint8_t>() + offset;
      selection.tensors.push_back({data, survivors == 2 ? mask : alive, mask, size, int(pool)});
    }
    const int64_t* wanted = r.array<int64_t>();
    int64_t* survey = r.array<int64_t>();
    selection.workspace = harness::scratch(size_t(workspace_bytes(selection)), 0xab, 16);
    cudaError_t error = survey_scores(selection, survey, nullptr);
    if (error == cudaSuccess) error = cut_scores(selection, wanted, nullptr);
    harness::release(selection.workspace);
    return error;
  });
}
