// How an update is laid out: its tiles, its threads, what lies where in the workspace, and which memory comes next.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/covariance_kernel.hpp"

namespace prunecca::cpu {

constexpr int64_t kBlock = kPanel * kPanel;
constexpr int64_t kSharedStateBytes = 512 << 10;  // a state above this no longer fits a core's L2 beside a packed tile
constexpr int64_t kPackedBytes = 4 << 20;         // of the tiles packed together, where more than one fits
constexpr int64_t kRowsPerThread = 128;           // fewer rows than this do not pay for waking another thread

// Where everything lies: in the problem and in the workspace.
template <class T> struct Plan {
  const Problem& problem;
  int64_t rows = 0;
  int64_t tile = kTileRows;  // rows of a tile
  int64_t group = 1;         // tiles that are packed before the first of them is multiplied
  int chunk = 0;             // rows of a partial sum
  int64_t unit = 1;          // threads and tiles begin at multiples of so many rows
  int threads = 1;
  bool by_rows = true;
  bool with_norms = false;
  std::vector<int64_t> first_panel;  // of each view in the packed tile; the last entry is the total
  std::vector<int64_t> first_block;  // of each pair in a state
  std::vector<int64_t> first_norm;   // of each pair in the norms
  int64_t panel_stride = 0;

  Plan(const Problem& p, int most_threads, int size_of_packed = 1) : problem(p) {
    panel_stride = int64_t(kTileRows) * kPanel * size_of_packed + kPanelPad;
    first_panel.assign(1, 0);
    first_block.assign(1, 0);
    first_norm.assign(1, 0);
    rows = p.rows();
    for (int v = 0; v < p.n_views; ++v) first_panel.push_back(first_panel.back() + panels_of(p.views[v]));
    for (int k = 0; k < p.n_pairs; ++k) {
      const int64_t pi = panels_of(p.views[p.pairs[k].i]), pj = panels_of(p.views[p.pairs[k].j]);
      first_block.push_back(first_block.back() + (p.pairs[k].i == p.pairs[k].j ? pi * (pi + 1) / 2 : pi * pj));
      first_norm.push_back(first_norm.back() + (p.pairs[k].norms ? 1 + (pi + pj) * kPanel : 0));
    }
    with_norms = first_norm.back() > 0;
    // Tiles of whole planes, or of equal parts of a large one, keep the transposition in full steps.
    for (int v = 0; v < p.n_views && !p.kept; ++v) {
      const View& view = p.views[v];
      if (view.inner_stride != 1 || view.channel_stride == 1 || view.inner < 2 || view.inner == rows) continue;
      const int64_t parts = (view.inner + kTileRows - 1) / kTileRows;
      unit = parts == 1 ? view.inner : kPanel;
      tile = parts == 1
                 ? kTileRows / unit * unit
                 : std::min<int64_t>(kTileRows, ((view.inner + parts - 1) / parts + kPanel - 1) / kPanel * kPanel);
      break;
    }
    // Shorter sums round less and cost more. Over many tiles rounding errors average out, so that longer sums do; less
    // so those of half precision, where few different values repeat.
    bool half = false;
    for (int v = 0; v < p.n_views; ++v) half = half || size_of(p.views[v].dtype) == 2;
    chunk = half || rows < 4096 ? 32 : rows < 32768 ? 64 : 128;
    by_rows = first_block.back() * kBlock * int64_t(sizeof(double)) <= kSharedStateBytes;
    if (by_rows && unit == 1 && rows < 1024) tile = 64;  // so few errors do not average out: join float64 sooner
    if (!by_rows)  // a thread waits for the others once a group
      group = std::clamp<int64_t>(kPackedBytes / int64_t(sizeof(T) * packed_tile()), 1,
                                  std::max<int64_t>(1, (rows + tile - 1) / tile));
    const int64_t useful = by_rows ? (rows + kRowsPerThread - 1) / kRowsPerThread : most_threads;
    threads = int(std::max<int64_t>(1, std::min<int64_t>(most_threads, useful)));
  }

  int64_t panels() const { return first_panel.back(); }
  int64_t packed_tile() const { return panels() * panel_stride; }  // values of a packed tile
  int states() const { return by_rows ? threads : 1; }

  // Sizes in bytes, each a multiple of 64.
  static size_t round(size_t bytes) { return (bytes + 63) & ~size_t(63); }
  size_t shift_bytes() const { return round(sizeof(T) * panels() * kPanel); }
  size_t packed_bytes() const { return round(sizeof(T) * group * packed_tile()); }
  size_t sum_bytes() const { return round(sizeof(double) * panels() * kPanel); }
  size_t tile_sum_bytes() const { return shift_bytes(); }
  size_t row_norm_bytes() const { return with_norms ? round(sizeof(double) * problem.n_views * kTileRows) : 0; }
  size_t state_bytes() const { return round(sizeof(double) * first_block.back() * kBlock); }
  size_t norm_bytes() const { return round(sizeof(double) * first_norm.back()); }
  size_t one_bytes() const {
    return packed_bytes() + tile_sum_bytes() + sum_bytes() + row_norm_bytes() + norm_bytes() + state_bytes();
  }
  size_t bytes() const { return shift_bytes() + states() * one_bytes(); }
};

// One thread's (or, by blocks, the team's) part of the workspace.
template <class T> struct Part {
  T *packed, *tile_sums;
  double *sums, *row_norms, *norms, *state;
  Part(const Plan<T>& plan, char* base) {
    packed = reinterpret_cast<T*>(base);
    tile_sums = reinterpret_cast<T*>(base += plan.packed_bytes());
    sums = reinterpret_cast<double*>(base += plan.tile_sum_bytes());
    row_norms = reinterpret_cast<double*>(base += plan.sum_bytes());
    norms = reinterpret_cast<double*>(base += plan.row_norm_bytes());
    state = reinterpret_cast<double*>(base += plan.norm_bytes());
  }
};

// Where rows [begin, begin + count) of a view lie; no runs where they are scattered.
inline Stretch stretch_of(const View& v, int64_t begin, int64_t count) {
  const int64_t size = size_of(v.dtype), i = begin % v.inner, m = begin / v.inner % v.middle,
                o = begin / v.inner / v.middle;
  const char* base =
      static_cast<const char*>(v.data) + (i * v.inner_stride + m * v.middle_stride + o * v.outer_stride) * size;
  const bool one_run = i + count <= v.inner;
  const auto lines = [&](int64_t elements) { return (elements * size + 63) / 64; };
  if (one_run && v.channel_stride == 1 && v.inner_stride == v.channels) return {base, 1, lines(count * v.channels), 0};
  if (one_run && v.channel_stride == 1) return {base, count, lines(v.channels), v.inner_stride * size};  // rows apart
  if (one_run && v.inner_stride == 1) return {base, v.channels, lines(count) + 1, v.channel_stride * size};  // planes
  if (v.inner_stride == 1 && v.outer == 1 && v.channel_stride == v.inner && v.middle_stride == v.inner * v.channels &&
      i == 0)
    return {base, 1, lines(count / v.inner * v.middle_stride), 0};  // small images follow each other
  return {base, 0, 0, 0};
}

// While one tile is multiplied, the next one is fetched; of several threads that share it, each fetches its part of the
// rows.
template <class T>
Prefetch ahead(const Plan<T>& plan, const Kernels<T>& kernel, std::vector<Stretch>& stretches, int64_t begin,
               int64_t count, int rows, int threads) {
  stretches.clear();
  if (const int64_t* kept = plan.problem.kept; kept && count > 0) {  // all between the first and the last
    const int64_t last = kept[begin + count - 1];
    begin = kept[begin];
    count = last - begin + 1;
  }
  int64_t lines = 0;
  for (int v = 0; v < plan.problem.n_views && count > 0; ++v) {
    const Stretch next = stretch_of(plan.problem.views[v], begin, count);
    if (next.runs * next.lines > 0) stretches.push_back(next);
    lines += next.runs * next.lines;
  }
  const int64_t chances =
      std::max<int64_t>(1, plan.first_block.back() / threads * kernel.passes * rows / kPrefetchRows);
  return {stretches.data(), stretches.data() + stretches.size(), 0, 0, (lines + chances - 1) / chances};
}

}  // namespace prunecca::cpu
