// Staging: panels of channels travel from device to shared memory by asynchronous copies, in their own orientation.
//
// Nothing is transposed: the products read a fragment with lane 4 g + t taking channel g and row t, and each
// orientation has a padding that spreads those 32 reads over the 32 banks.
#pragma once
#include "cuda/covariance_plan.cuh"
#include "cuda/ptx.cuh"

namespace prunecca::cuda {

// What is fixed at compile time for elements of T, products in P, an orientation and a panel width.
template <class T_, class P_, bool kRowMajor_, int kPanel_> struct Shape {
  using T = T_;
  using P = P_;
  static constexpr bool kRowMajor = kRowMajor_;
  static constexpr int kPanel = kPanel_;
  // A panel of 16 or 32 is one tile by itself: its four warps share the rows. A panel of 64 has parts for its warps.
  static constexpr int kPart = kPanel < 32 ? kPanel : 32;  // channels of a warp's tile
  static constexpr int kWarpsPerRows = kPanel == kPart ? 4 : 1;
  static constexpr int kWarpRows = 128 / sizeof(T);        // 128 bytes of a channel per warp and stage
  static constexpr int kRows = kWarpRows * kWarpsPerRows;  // rows in a stage
  static constexpr int kPerCopy = 16 / sizeof(T);
  // Distance between channels (or rows): 4 words more than a multiple of 32 words when channels lie apart, 4 or 8 more
  // when rows do; doubles are read by half warps and need 4 elements.
  static constexpr int kPad = sizeof(T) == 8 ? 4 : sizeof(T) == 2 || kRowMajor ? 8 : 4;
  static constexpr int kChannelStep = kRowMajor ? 1 : kRows + kPad;
  static constexpr int kRowStep = kRowMajor ? kPanel + kPad : 1;
  static constexpr int kPanelSize = kRowMajor ? kRows * kRowStep : kPanel * kChannelStep;
  static constexpr int kPanels = kPanel == kPart ? 1 : 2;  // in a stage
  // Two blocks fit the 164 KiB of an A100's SM (75 KiB each at most), and each keeps 16 KiB or more per panel under
  // way.
  static constexpr int kStages = kPanel == 32 || sizeof(T) == 8 ? 3 : 4;
  static constexpr size_t kSharedBytes = sizeof(T) * kPanelSize * kPanels * kStages;
};

template <class S> struct PanelInfo {
  const char* base[S::kPanel];  // row 0 of each channel; null: padding
  typename S::P shift[S::kPanel];
};
template <class S> struct BlockInfo {
  PanelInfo<S> panel[2];
  double sums[kThreads / 32][32];  // of the 32 channels of each warp
};

// Which channels a panel holds. Padding is zeroed in every stage, once: nothing is ever copied there.
template <class S> __device__ inline void describe_panel(const Plan& plan, int panel, PanelInfo<S>& info) {
  for (int c = int(threadIdx.x); c < S::kPanel; c += kThreads) {
    const int channel = panel * S::kPanel + c, v = plan.view_of(channel);
    const int64_t own = v < 0 ? 0 : channel - plan.views[v].first;
    info.base[c] = v < 0 ? nullptr : plan.views[v].data + own * plan.views[v].channel_stride;
    info.shift[c] = v < 0 ? typename S::P(0) : typename S::P(plan.views[v].shift[own]);
  }
}
template <class S> __device__ inline void zero_stages(typename S::T* stages) {
  auto* words = reinterpret_cast<uint4*>(stages);
  for (int i = int(threadIdx.x); i < int(S::kSharedBytes / 16); i += kThreads) words[i] = make_uint4(0, 0, 0, 0);
}

// The strides of the view(s) in a panel; all views of a panel have the same.
struct Strides {
  int64_t inner, middle, outer;
  bool vector;
  __device__ Strides(const Plan& plan, int first_channel) {
    int v = plan.n_views - 1;
    while (v > 0 && plan.views[v].first > first_channel) --v;
    const Source& s = plan.views[v];
    inner = s.inner_stride, middle = s.middle_stride, outer = s.outer_stride, vector = s.vector;
  }
  __device__ int64_t offset(const Plan& plan, unsigned row) const {
    if (row < plan.inner) return row * inner;
    const unsigned line = row / plan.inner, p = row - line * plan.inner;
    if (plan.middle == 1) return p * inner + line * outer;
    return p * inner + line % plan.middle * middle + line / plan.middle * outer;
  }
};

// Starts the copies of rows [row, row + kRows) of one panel; rows from `end` on become zero.
template <class S>
__device__ __forceinline__ void stage_panel(const Plan& plan, const PanelInfo<S>& info, const Strides& strides,
                                            unsigned row, unsigned end, typename S::T* to) {
  using T = typename S::T;
  const int tid = int(threadIdx.x);
  if (strides.vector && !S::kRowMajor) {
    constexpr int kCopies = S::kRows / S::kPerCopy,
                  kStep = kThreads / kCopies;  // copies per channel; channels per pass
    const int r = tid % kCopies * S::kPerCopy;
    const bool inside = row + r < end;
    const int64_t offset = inside ? strides.offset(plan, row + r) : 0;
#pragma unroll
    for (int c = tid / kCopies; c < S::kPanel; c += kStep)
      if (const char* base = info.base[c]) copy_async<16>(to + c * S::kChannelStep + r, base + offset, inside);
  } else if (strides.vector) {
    constexpr int kCopies = S::kPanel / S::kPerCopy, kStep = kThreads / kCopies;  // copies per row; rows per pass
    const int c = tid % kCopies * S::kPerCopy;
    const char* base = info.base[c];
#pragma unroll 4
    for (int r = tid / kCopies; r < S::kRows; r += kStep) {
      const bool inside = row + r < end;
      if (base) copy_async<16>(to + r * S::kRowStep + c, base + (inside ? strides.offset(plan, row + r) : 0), inside);
    }
  } else {  // any strides, any alignment: one element at a time, along whichever dimension is staged contiguously
    constexpr int kLine = S::kRowMajor ? S::kPanel : S::kRows;
    for (int i = tid; i < S::kPanel * S::kRows; i += kThreads) {
      const int c = S::kRowMajor ? i % kLine : i / kLine, r = S::kRowMajor ? i / kLine : i % kLine;
      const char* base = info.base[c];
      if (!base) continue;
      const bool inside = row + r < end;
      const char* from = base + (inside ? strides.offset(plan, row + r) : 0);
      T* at = to + c * S::kChannelStep + r * S::kRowStep;
      if constexpr (sizeof(T) >= 4)
        copy_async<int(sizeof(T))>(at, from, inside);
      else
        *at = inside ? *reinterpret_cast<const T*>(from) : T{};  // an asynchronous copy has 4 bytes at least
    }
  }
}

}  // namespace prunecca::cuda
