// How an update is laid out over blocks: the channels of all views side by side, cut into panels; tiles of two panels;
// the rows cut into splits. All of it travels to the kernels by value.
#pragma once
#include <algorithm>

#include "cuda/covariance.cuh"

namespace prunecca::cuda {

constexpr int kThreads = 128;  // four warps, each with a 32 x 32 part of a tile
#ifndef PRUNECCA_MOST_TILES
#define PRUNECCA_MOST_TILES 1024  // fewer in a test, to which so many would take minutes
#endif
constexpr int kMostTiles = PRUNECCA_MOST_TILES;  // per launch: the plan must fit the 4 KiB of kernel parameters
constexpr int kViewPad = 16;                     // views begin at multiples of this: no 16-byte copy spans two views

struct Source {  // a view as the kernels see it; strides in bytes
  const char* data;
  const double* shift;
  int64_t channel_stride, inner_stride, middle_stride, outer_stride;
  int first, channels;  // its place among all channels
  bool vector;          // read by 16-byte copies
};

struct Plan {
  Source views[kMostViews];
  int n_views;
  unsigned rows, rows_per_split, inner, middle;
  int splits, n_tiles;
  uint16_t tiles[kMostTiles];  // panel of the first side << 8 | panel of the second

  // The view of a channel; -1: padding.
  __host__ __device__ int view_of(int channel) const {
    for (int v = 0; v < n_views; ++v)
      if (channel >= views[v].first && channel < views[v].first + views[v].channels) return v;
    return -1;
  }
};

struct Layout {
  Plan plan{};             // without tiles
  bool row_major = false;  // staged as rows of channels (channels are contiguous in memory) or as channels of rows
  bool float64 = false;
  int panel = 64, n_panels = 0;
  bool valid = false;
};

// How many elements of memory a view moves when its row index grows by `span`, or INT64_MIN when that is no one number.
inline int64_t stride_of(const View& view, int64_t span, int64_t until) {
  const int64_t begins[] = {1, view.inner, view.inner * view.middle, view.rows()};
  const int64_t strides[] = {view.inner_stride, view.middle_stride, view.outer_stride};
  if (span >= until) return 0;  // a dimension of length one
  for (int d = 0; d < 3; ++d)
    if (begins[d] <= span && span < begins[d + 1])
      return span % begins[d] || until > begins[d + 1] ? INT64_MIN : span / begins[d] * strides[d];
  return INT64_MIN;
}

// Cuts the rows of all views into the same (outer, middle, inner), places the views, chooses panel and orientation.
inline Layout lay_out(const Problem& problem) {
  Layout out;
  if (problem.n_views < 1 || problem.n_views > kMostViews) return out;
  const View* views = problem.views;
  const int64_t size = size_of(views[0].dtype), rows = views[0].rows();
  for (int v = 0; v < problem.n_views; ++v)
    if (views[v].dtype != views[0].dtype || views[v].rows() != rows || rows >= int64_t(1) << 31 ||
        views[v].channels < 1)
      return out;
  if (!rows) return out;
  // The smallest dimension of any view is the inner one, the next boundary of any view ends the middle one.
  int64_t inner = rows, plane = rows;
  for (int v = 0; v < problem.n_views; ++v) inner = std::min(inner, views[v].inner);
  for (int v = 0; v < problem.n_views; ++v)
    for (int64_t boundary : {views[v].inner, views[v].inner * views[v].middle})
      if (boundary > inner) plane = std::min(plane, boundary);
  if (plane % inner || rows % plane) return out;
  Plan& plan = out.plan;
  plan.n_views = problem.n_views;
  plan.rows = unsigned(rows), plan.inner = unsigned(inner), plan.middle = unsigned(plane / inner);
  out.float64 = problem.float64 || views[0].dtype == Dtype::float64;
  int64_t by_row = 0, channels = 0;
  for (int v = 0; v < problem.n_views; ++v) {
    const View& view = views[v];
    Source& s = plan.views[v];
    const int64_t steps[] = {stride_of(view, 1, inner), stride_of(view, inner, plane), stride_of(view, plane, rows)};
    if (std::count(steps, steps + 3, INT64_MIN)) return out;
    s.data = static_cast<const char*>(view.data), s.shift = view.shift;
    s.inner_stride = steps[0] * size, s.middle_stride = steps[1] * size, s.outer_stride = steps[2] * size;
    s.channel_stride = view.channel_stride * size, s.channels = int(view.channels);
    channels += (view.channels + kViewPad - 1) / kViewPad * kViewPad;
    by_row +=
        view.channels > 1 && std::abs(s.channel_stride) < std::abs(s.inner_stride) ? view.channels : -view.channels;
  }
  out.row_major = by_row > 0;
  auto aligned = [](int64_t x) { return x % 16 == 0; };
  auto alike = [](const Source& a, const Source& b) {
    return a.vector == b.vector && a.inner_stride == b.inner_stride && a.middle_stride == b.middle_stride &&
           a.outer_stride == b.outer_stride;
  };
  out.panel = channels <= 16 ? 16 : channels <= 32 ? 32 : 64;
  for (int v = 0; v < problem.n_views; ++v) {
    Source& s = plan.views[v];
    s.vector =
        aligned(int64_t(reinterpret_cast<uintptr_t>(s.data))) && aligned(s.middle_stride) && aligned(s.outer_stride);
    if (out.row_major)
      s.vector &= s.channel_stride == size && aligned(s.inner_stride) && s.channels * size % 16 == 0;
    else
      s.vector &= s.inner_stride == size && aligned(s.channel_stride) && inner * size % 16 == 0;
    if (!alike(s, plan.views[0])) out.panel = 64;
  }
  int at = 0;
  for (int v = 0; v < problem.n_views; ++v) {
    // Views that share a panel are read with the same strides; a view that differs begins a new panel.
    if (v && !alike(plan.views[v], plan.views[v - 1])) at = (at + out.panel - 1) / out.panel * out.panel;
    plan.views[v].first = at;
    at += (plan.views[v].channels + kViewPad - 1) / kViewPad * kViewPad;
  }
  out.n_panels = (at + out.panel - 1) / out.panel;
  out.valid = out.n_panels <= 256;
  return out;
}

// Whether a pair that was asked for meets in the tile of panels a <= b, or a sum that was asked for in the panel a = b.
inline bool wanted(const Layout& layout, const Problem& problem, int a, int b) {
  auto overlaps = [&](int view, int panel) {
    const Source& s = layout.plan.views[view];
    return s.first < (panel + 1) * layout.panel && s.first + s.channels > panel * layout.panel;
  };
  for (int v = 0; v < problem.n_views; ++v)
    if (a == b && problem.views[v].sum && overlaps(v, a)) return true;
  for (int p = 0; p < problem.n_pairs; ++p)
    if (overlaps(problem.pairs[p].i, a) && overlaps(problem.pairs[p].j, b)) return true;
  return false;
}

// How many pieces the rows are cut into. An H100 or H200 runs kSlots blocks at once (132 SMs, two blocks each); the
// time is the number of waves times what one block takes: its rows, plus about kOverheadRows for filling the pipeline,
// writing the tile and its share of the reduction. Depends on the sizes alone, so that results do.
inline void cut_rows(Plan& plan, int n_tiles, int granule) {
  constexpr int64_t kSlots = 264, kOverheadRows = 384, kLeastRows = 256, kMostBlocks = 4 * kSlots;
  const int64_t rows = plan.rows, most = std::max<int64_t>(1, std::min(kMostBlocks / n_tiles, rows / kLeastRows));
  int64_t best = INT64_MAX;
  for (int64_t splits = 1; splits <= most; ++splits) {
    const int64_t each = ((rows + splits - 1) / splits + granule - 1) / granule * granule;
    const int64_t used = (rows + each - 1) / each, waves = (used * n_tiles + kSlots - 1) / kSlots;
    if (used != splits) continue;  // rounding made a piece empty
    const int64_t cost = waves * (each + kOverheadRows);
    if (cost < best) best = cost, plan.splits = int(splits), plan.rows_per_split = unsigned(each);
  }
}

}  // namespace prunecca::cuda
