// The mask kernels, emulated. Scalars: what to do, its own numbers, the number of tensors, then per tensor its size and
// the offset of its first element in each of its arrays.
#include "cuda/masks.cu"
#include "harness.hpp"

using namespace prunecca;
using namespace prunecca::cuda;

int main() {
  return harness::serve([](harness::Request& r) -> cudaError_t {
    const int64_t what = r.integer(), itemsize = r.integer(), count = r.integer();
    std::vector<Masked> masked;
    std::vector<Counted> counted;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t size = r.integer(), offset = r.integer();
      const bool in_place = r.integer();
      uint8_t* first = r.array<uint8_t>();
      if (what == 0) {
        uint8_t* in = in_place ? first : r.array<uint8_t>();
        masked.push_back(
            {first + offset * itemsize, in + offset * itemsize, r.array<uint8_t>() + offset, size, int(itemsize)});
      } else {
        counted.push_back({first + offset, size});
      }
    }
    return what == 0 ? masked_copy(masked, int(itemsize), nullptr) : count_kept(counted, r.array<int64_t>(), nullptr);
  });
}
