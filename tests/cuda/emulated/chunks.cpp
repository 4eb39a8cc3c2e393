// How tensors are cut into chunks, without their memory: none of it is touched, so that any size can be asked for.
// Scalars: the number of tensors, their sizes, the number of chunks asked for, their places in the launch. The array:
// per chunk the tensor, begin and end.
#include "cuda/tensor_chunks.cuh"
#include "harness.hpp"

using namespace prunecca::cuda;

struct Item {
  int64_t size;
  std::array<const void*, 1> addresses() const { return {nullptr}; }
};

int main() {
  return harness::serve([](harness::Request& r) -> cudaError_t {
    std::vector<Item> items(size_t(r.integer()));
    for (Item& item : items) item.size = r.integer();
    const int64_t count = r.integer();
    auto* found = r.array<int64_t>();
    return for_tables<1>(items, [&](const auto& table) {
      threadIdx = {255, 0, 0};
      for (int64_t i = 0; i < count; ++i) {
        const Chunk c = find_chunk(table, int(r.integer()));
        const int64_t numbers[] = {table.index[c.tensor], c.begin, c.end, c.four(kSteps - 1), table.chunks()};
        std::memcpy(found + 5 * i, numbers, sizeof(numbers));
      }
      return cudaSuccess;
    });
  });
}
