// Selects the lowest scores among the survivors of pools of tensors, and clears them in the masks, as
// cpu/threshold.hpp does: bit for bit the same masks. All state is on the device.
//
// Radix selection: a score becomes an unsigned key whose order is the order of the scores; the wanted-th lowest key is
// found digit by digit, each from one histogram of the keys that agree in the digits above. Its first digit comes with
// the survey, and decides nearly all entries; these are written at once, and the few others go to a list for each chunk,
// which is all that later digits read. So the scores are read twice: 11 bytes an entry of float32, in four launches.
// All pools share the launches.
#pragma once
#include <vector>

#include "cuda/platform.cuh"
#include "threshold.hpp"

namespace prunecca::cuda {

struct Selection {
  std::vector<Scores> tensors;
  Dtype dtype = Dtype::float32;  // of all scores
  Order order = Order::magnitude;
  int pools = 1;
  void* workspace = nullptr;  // workspace_bytes(), 16-byte aligned, the same in both calls
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
