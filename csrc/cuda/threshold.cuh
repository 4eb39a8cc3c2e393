// Selects the lowest scores among the survivors of pools of tensors, and clears them in the masks, as
// cpu/threshold.hpp does: bit for bit the same masks. All state is on the device.
//
// Radix selection: a score becomes an unsigned key whose order is the order of the scores; the wanted-th lowest key is
// found digit by digit, each from one histogram of the keys that agree in the digits above. All pools share the launches.
#pragma once
#include <array>
#include <vector>

#include "array.hpp"
#include "cuda/platform.cuh"

namespace prunecca::cuda {

struct Scored {
  const void* data;      // scores, contiguous
  const uint8_t* alive;  // survivors so far; null: all
  uint8_t* mask;         // out; may be `alive`
  int64_t size;
  int pool;              // tensors of one pool are neighbours, in the order that breaks ties
  std::array<const void*, 3> addresses() const { return {data, alive, mask}; }
};

struct Selection {
  std::vector<Scored> tensors;
  Dtype dtype = Dtype::float32;  // of all scores
  bool by_value = false;         // compare the signed score instead of its magnitude; -0 equals +0 in both
  int pools = 1;
  void* workspace = nullptr;     // workspace_bytes(), 16-byte aligned, the same in both calls
};

int64_t workspace_bytes(const Selection& selection);

// First half. survey[2 * p] = survivors of pool p, survey[2 * p + 1] = index of its first tensor with a NaN at a
// survivor, or -1; device memory.
cudaError_t survey_scores(const Selection& selection, int64_t* survey, cudaStream_t stream);

// Second half. Writes mask = alive without the wanted[p] survivors of lowest score of each pool p; ties go by position
// in the concatenation of its tensors. wanted: device memory. A pool keeps its masks (mask = alive) when it has a NaN;
// more wanted than survive counts as all of them.
cudaError_t cut_scores(const Selection& selection, const int64_t* wanted, cudaStream_t stream);

}  // namespace prunecca::cuda
