// The mask kernels, emulated. Scalars: what to do, its own numbers, the number of tensors, then per tensor its size and
// the offset of its first element in each of its arrays.
#include "cuda/masks.cu"
#include "harness.hpp"

using namespace prunecca::cuda;

int main() {
  return harness::serve([](harness::Request& r) -> cudaError_t {
    const int64_t what = r.integer(), itemsize = r.integer(), count = r.integer();
    std::vector<Masked> masked;
    std::vector<Counted> counted;
    std::vector<Packed> packed;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t size = r.integer(), offset = r.integer();
      const bool in_place = r.integer();
      uint8_t* first = r.array<uint8_t>();
      if (what == 0) {
        uint8_t* in = in_place ? first : r.array<uint8_t>();
        masked.push_back({first + offset * itemsize, in + offset * itemsize, r.array<uint8_t>() + offset, size});
      }
      if (what == 1) counted.push_back({first + offset, size});
      if (what >= 2) packed.push_back({first + offset, r.array<uint8_t>() + offset, size});
    }
    switch (what) {
      case 0: return masked_copy(masked, int(itemsize), nullptr);
      case 1: return count_kept(counted, r.array<int64_t>(), nullptr);
      case 2: return pack_masks(packed, nullptr);
      default: return unpack_masks(packed, nullptr);
    }
  });
}
