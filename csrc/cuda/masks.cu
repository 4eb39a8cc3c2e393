#include "cuda/masks.cuh"

#include "cuda/reduce.cuh"
#include "cuda/tensor_chunks.cuh"

namespace prunecca::cuda {
namespace {

// All loads of a stage are issued before the first is used: bandwidth needs them in flight.
template <bool kWhole, class Word>
__device__ __forceinline__ void copy_chunk(Word* out, const Word* in, const uint8_t* mask, const Chunk& c) {
  Four<uint8_t> kept[kSteps];
  Four<Word> x[kSteps];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) kept[s] = load_four<kWhole>(mask, c.four(s), c);
  const auto all = [&](int s) { return kept[s].at[0] && kept[s].at[1] && kept[s].at[2] && kept[s].at[3]; };
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const bool any = kept[s].at[0] | kept[s].at[1] | kept[s].at[2] | kept[s].at[3];
    x[s] = Four<Word>{};
    if (any && !(out == in && all(s))) x[s] = load_four<kWhole>(in, c.four(s), c);
  }
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    if (out == in && all(s)) continue;
#pragma unroll
    for (int j = 0; j < kFour; ++j) x[s].at[j] = kept[s].at[j] ? x[s].at[j] : Word(0);
    store_four<kWhole>(out, c.four(s), c, x[s]);
  }
}

// Bytes per element: 1 for the mask, and in + out of the fours that are not all kept (in place) or all pruned.
template <class Word, class Tensors>
__global__ void __launch_bounds__(kBlock) copy_kernel(const __grid_constant__ Tensors tensors) {
  const Chunk c = find_chunk(tensors, int(blockIdx.x));
  Word* out = tensors.template at<Word>(0, c.tensor);
  const Word* in = tensors.template at<const Word>(1, c.tensor);
  const uint8_t* mask = tensors.template at<const uint8_t>(2, c.tensor);
  c.whole() ? copy_chunk<true>(out, in, mask, c) : copy_chunk<false>(out, in, mask, c);
}

// 1 byte per element.
template <class Tensors>
__global__ void __launch_bounds__(kBlock) count_kernel(const __grid_constant__ Tensors tensors, int64_t* kept_of) {
  struct Shared {
    int partial[kBlock / 32];
  };
  Shared& shared = static_shared<Shared>();
  const Chunk c = find_chunk(tensors, int(blockIdx.x));
  const uint8_t* mask = tensors.template at<const uint8_t>(0, c.tensor);
  int kept = 0;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const Four<uint8_t> m = load_four<false>(mask, c.four(s), c);
#pragma unroll
    for (int j = 0; j < kFour; ++j) kept += m.at[j] != 0;
  }
  kept = block_sum<kBlock>(kept, shared.partial);
  if (threadIdx.x == 0)
    atomicAdd(reinterpret_cast<unsigned long long*>(kept_of + tensors.index[c.tensor]), (unsigned long long)(kept));
}

template <class Word> cudaError_t copy_words(const std::vector<Masked>& tensors, cudaStream_t stream) {
  return for_tables<3>(tensors, [&](const auto& table) {
    using Tensors = std::decay_t<decltype(table)>;
    return launch({table.chunks(), kBlock, 0, stream}, copy_kernel<Word, Tensors>, table);
  });
}

}  // namespace

cudaError_t masked_copy(const std::vector<Masked>& tensors, int itemsize, cudaStream_t stream) {
  switch (itemsize) {
    case 2: return copy_words<uint16_t>(tensors, stream);
    case 4: return copy_words<uint32_t>(tensors, stream);
    case 8: return copy_words<uint64_t>(tensors, stream);
    default: return cudaErrorInvalidValue;
  }
}

cudaError_t count_kept(const std::vector<Counted>& masks, int64_t* kept, cudaStream_t stream) {
  if (masks.empty()) return cudaSuccess;
  const cudaError_t error = cudaMemsetAsync(kept, 0, masks.size() * sizeof(int64_t), stream);
  if (error != cudaSuccess) return error;
  return for_tables<1>(masks, [&](const auto& table) {
    using Tensors = std::decay_t<decltype(table)>;
    return launch({table.chunks(), kBlock, 0, stream}, count_kernel<Tensors>, table, kept);
  });
}

}  // namespace prunecca::cuda
