// Scores as unsigned keys, and the way of a block through the scores of a launch.
#pragma once
#include "cuda/tensor_chunks.cuh"

namespace prunecca::cuda {
namespace {

constexpr int kTable = 256;  // tensors of one launch
using Tensors = Table<3, kTable>;

__device__ __forceinline__ uint64_t bits_of(double x) { return uint64_t(__double_as_longlong(x)); }
template <class T> __device__ __forceinline__ uint32_t bits_of(T x) { return __float_as_uint(widen(x)); }
template <class T> using WordOf = decltype(bits_of(T{}));

__device__ __forceinline__ bool is_nan(uint32_t bits) { return bits << 1 > 0xff000000u; }
__device__ __forceinline__ bool is_nan(uint64_t bits) { return bits << 1 > uint64_t(0x7ff) << 53; }

// An unsigned number in the order of the magnitudes, or of the values.
template <bool kValue, class Word> __device__ __forceinline__ Word key_of_bits(Word bits) {
  if constexpr (kValue) {
    constexpr Word sign = Word(1) << (8 * sizeof(Word) - 1);
    const Word plain = bits << 1 == 0 ? Word(0) : bits;  // -0 is +0
    return plain & sign ? Word(~plain) : Word(plain | sign);
  } else {
    return bits << 1;
  }
}

// A block's chunks [begin, end) of the launch: neighbours, so that few pools meet in it.
struct Share {
  int begin, end;
};
__device__ __forceinline__ Share share_of_block(const Tensors& tensors, int block) {
  const int64_t chunks = tensors.first[tensors.count];
  return {int(chunks * block / gridDim.x), int(chunks * (block + 1) / gridDim.x)};
}

template <class T> struct Piece {  // one thread's part of a chunk
  Four<T> score[kSteps];
  Four<uint8_t> alive[kSteps];
};

template <bool kWhole, class T>
__device__ __forceinline__ void load_piece(Piece<T>& piece, const T* score, const uint8_t* alive, const Chunk& c) {
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    piece.score[s] = load_four<kWhole>(score, c.four(s), c);
    if (alive) {
      piece.alive[s] = load_four<kWhole>(alive, c.four(s), c);
    } else {
#pragma unroll
      for (int j = 0; j < kFour; ++j) piece.alive[s].at[j] = kWhole || c.four(s) + j < c.end;
    }
  }
}
// alive: null: the survivors so far; otherwise others in their place.
template <class T> __device__ __forceinline__ void load_piece(Piece<T>& piece, const Tensors& tensors, const Chunk& c,
                                                              const uint8_t* alive = nullptr) {
  const T* score = tensors.at<const T>(0, c.tensor);
  if (!alive) alive = tensors.at<const uint8_t>(1, c.tensor);
  c.whole() ? load_piece<true>(piece, score, alive, c) : load_piece<false>(piece, score, alive, c);
}

}  // namespace
}  // namespace prunecca::cuda
