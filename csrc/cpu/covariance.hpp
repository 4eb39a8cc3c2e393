// Streaming covariance on the CPU: shifted sums and cross products of several views that share their rows.
//
// Products are taken in float32 (or float64) over a tile of kTileRows rows and flushed to float64, which keeps float32
// speed at float64 accuracy.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../covariance.hpp"  // without the dots, this file

namespace prunecca::cpu {

constexpr int kPanel = 16;  // channels in a packed panel: one cache line of float32

inline int64_t panels_of(const View& view) { return (view.channels + kPanel - 1) / kPanel; }

// Where a value was not finite; view < 0: nowhere.
struct NonFinite {
  int view = -1;
  int64_t channel = -1;
};

// Bytes of scratch memory that update() needs, to be aligned to 64.
size_t workspace_bytes(const Problem& problem, int threads);

// Adds all rows to the states, of a view with itself to the upper triangle; or leaves them untouched and says where the
// first non-finite sum is.
NonFinite update(const Problem& problem, int threads, void* workspace);

}  // namespace prunecca::cpu
