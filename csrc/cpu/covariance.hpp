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

// Why a batch was not added, and where the first reason is.
enum class Reason {
  none,
  not_finite,  // a sum or a square is not finite, in the precision of the products
  underflow,   // squares so small that products in this precision have lost digits
  off_centre,  // the mean of all rows lies so far from the shift that float32 products have lost digits
};
struct Refusal {
  Reason reason = Reason::none;
  int view = -1;
  int64_t channel = -1;
  explicit operator bool() const { return reason != Reason::none; }
};

// Bytes of scratch memory that update() can use, at the level in use, to be aligned to 64; and those that it needs at any.
size_t workspace_bytes(const Problem& problem, int threads);
size_t least_workspace_bytes(const Problem& problem, int threads);

// Adds all rows to the states, of a view with itself to the upper triangle; or leaves them untouched and says why.
// `any_range`: what is lost to underflow or to a far mean is accepted.
Refusal update(const Problem& problem, int threads, bool any_range, void* workspace, size_t bytes);

// Whether the mean of all rows of a view lies far from its shift, by its states.
bool off_centre(const Problem& problem, int view);

}  // namespace prunecca::cpu
