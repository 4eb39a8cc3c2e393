// The tensors of a model as one launch sees them: addresses and sizes in the kernel's own parameters, cut into chunks.
// No device memory is needed, and a captured CUDA graph keeps its own copy.
#pragma once
#include <array>
#include <vector>

#include "cuda/platform.cuh"

namespace prunecca::cuda {

constexpr int kChunk = 4096;  // elements; small enough that few layers leave a block with little to do
constexpr int kBlock = 256;   // threads of every kernel that works through chunks
constexpr int kFour = 4;      // elements that a thread takes at a time
constexpr int kSteps = kChunk / (kBlock * kFour);  // fours of a thread in one chunk
constexpr int kSmallTable = 48,
              kLargeTable = 420;  // with Adam's: within 4 KiB of parameters; within the limit of 32764 B

// kPointers parallel arrays per tensor. All members are read at the same place by all threads of a block.
template <int kPointers, int kSize> struct Table {
  static constexpr int kCapacity = kSize;
  void* data[kPointers][kCapacity];
  int64_t size[kCapacity];
  int index[kCapacity];              // of the tensor among those that the caller gave
  int first[kCapacity + 1];          // chunk of the launch at which the tensor begins
  unsigned char aligned[kCapacity];  // every address is a multiple of 16
  int count = 0;

  __host__ __device__ unsigned chunks() const { return unsigned(first[count]); }
  template <class T> __device__ __forceinline__ T* at(int pointer, int tensor) const {
    return static_cast<T*>(data[pointer][tensor]);
  }
};

// Elements [begin, end) of one tensor.
struct Chunk {
  int tensor;
  int64_t begin, end;
  bool aligned;
  __device__ __forceinline__ bool whole() const { return aligned && end - begin == kChunk; }
  // First element of this thread's four in the step: the fours of a step are neighbours.
  __device__ __forceinline__ int64_t four(int step) const { return begin + (step * kBlock + int(threadIdx.x)) * kFour; }
};

template <class Tensors> __device__ __forceinline__ Chunk find_chunk(const Tensors& tensors, int chunk) {
  int low = 0, high = tensors.count;  // the tensor lies in [low, high)
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (tensors.first[middle] <= chunk ? low : high) = middle;
  }
  const int64_t begin = int64_t(chunk - tensors.first[low]) * kChunk;
  return {low, begin, min(begin + kChunk, tensors.size[low]), tensors.aligned[low] != 0};
}

// Four neighbouring elements, in as few 16-byte accesses as they need.
template <class T> struct alignas(sizeof(T) * kFour < 16 ? sizeof(T) * kFour : 16) Four {
  T at[kFour];
};

// Elements i .. i + 3 of x, zero from `end` on. kWhole: c.whole() is known to hold, and nothing is tested.
template <bool kWhole, class T> __device__ __forceinline__ Four<T> load_four(const T* x, int64_t i, const Chunk& c) {
  if constexpr (kWhole) {
    return *reinterpret_cast<const Four<T>*>(x + i);
  } else {
    if (c.aligned && i + kFour <= c.end) return *reinterpret_cast<const Four<T>*>(x + i);
    Four<T> four{};
#pragma unroll
    for (int j = 0; j < kFour; ++j)
      if (i + j < c.end) four.at[j] = x[i + j];
    return four;
  }
}

template <bool kWhole, class T>
__device__ __forceinline__ void store_four(T* x, int64_t i, const Chunk& c, const Four<T>& four) {
  if constexpr (kWhole) {
    *reinterpret_cast<Four<T>*>(x + i) = four;
  } else {
    if (c.aligned && i + kFour <= c.end) {
      *reinterpret_cast<Four<T>*>(x + i) = four;
      return;
    }
#pragma unroll
    for (int j = 0; j < kFour; ++j)
      if (i + j < c.end) x[i + j] = four.at[j];
  }
}

// Calls start(table) for as few tables as hold all tensors that are not empty: one, up to kLarge tensors. An item has
// `size` and `addresses()`, an array of kPointers addresses.
template <int kPointers, int kSmall = kSmallTable, int kLarge = kLargeTable, class Item, class Start>
cudaError_t for_tables(const std::vector<Item>& items, Start start) {
  std::vector<int> filled;
  for (size_t i = 0; i < items.size(); ++i)
    if (items[i].size > 0) filled.push_back(int(i));
  for (size_t begin = 0; begin < filled.size(); begin += kLarge) {
    const size_t left = filled.size() - begin;
    const auto fill_and_start = [&](auto& table, size_t count) {
      table.first[0] = 0;
      table.count = int(count);
      for (size_t t = 0; t < count; ++t) {
        table.index[t] = filled[begin + t];
        const Item& item = items[table.index[t]];
        const std::array<const void*, kPointers> addresses = item.addresses();
        table.aligned[t] = 1;
        for (int p = 0; p < kPointers; ++p) {
          table.data[p][t] = const_cast<void*>(addresses[p]);
          if (reinterpret_cast<uintptr_t>(addresses[p]) % 16) table.aligned[t] = 0;
        }
        table.size[t] = item.size;
        table.first[t + 1] = table.first[t] + int((item.size + kChunk - 1) / kChunk);
      }
      return start(table);
    };
    cudaError_t error;
    if (left <= kSmall) {
      Table<kPointers, kSmall> table;
      error = fill_and_start(table, left);
    } else {
      Table<kPointers, kLarge> table;
      error = fill_and_start(table, left < kLarge ? left : kLarge);
    }
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace prunecca::cuda
