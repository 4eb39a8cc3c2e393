// How tensors are cut into chunks, without their memory: none of it is touched, so that any size can be asked for.
// Scalars: the number of tensors, their sizes. Arrays: places of chunks in the launch; for each the tensor, begin, end,
// the last element that a thread begins at, and the number of chunks.
#include "cuda/tensor_chunks.cuh"
#include "harness.hpp"

using namespace prunecca::cuda;

struct Item {
  int64_t size;
  std::array<const void*, 1> addresses() const { return {nullptr}; }
};

template <class Tensors>
__global__ void look(const __grid_constant__ Tensors tensors, const int64_t* places, int count, int64_t* found) {
  if (threadIdx.x != kBlock - 1) return;
  for (int i = 0; i < count; ++i) {
    const Chunk c = find_chunk(tensors, int(places[i]));
    int64_t* to = found + 5 * i;
    to[0] = tensors.index[c.tensor], to[1] = c.begin, to[2] = c.end, to[3] = c.four(kSteps - 1),
    to[4] = tensors.chunks();
  }
}

int main() {
  return harness::serve([](harness::Request& r) -> cudaError_t {
    std::vector<Item> items(size_t(r.integer()));
    for (Item& item : items) item.size = r.integer();
    const int count = int(r.integer());
    const auto* places = r.array<int64_t>();
    auto* found = r.array<int64_t>();
    return for_tables<1>(items, [&](const auto& table) {
      return launch({1, kBlock}, look<std::decay_t<decltype(table)>>, table, places, count, found);
    });
  });
}
