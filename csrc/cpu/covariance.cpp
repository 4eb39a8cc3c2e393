// The driver: cuts rows and blocks among threads, and carries tiles to the kernels of the chosen SIMD level.
//
// Two ways to share the work, both with a fixed order of additions (same input and threads: same bits):
//  - small states: every thread takes a range of rows and has a state of its own, added up in thread order at the end;
//  - large states: all threads pack a tile together and then take blocks of the one state.
#include "cpu/covariance.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/covariance_kernel.hpp"
#include "cpu/covariance_plan.hpp"
#include "cpu/covariance_tasks.hpp"
#include "cpu/row_folding.hpp"
#include "cpu/single_channels.hpp"
#include "cpu/tile_instructions.hpp"

namespace prunecca::cpu {

namespace {

template <class T> Kernels<T> chosen_kernel() {
  const CovarianceKernel& kernel = at_simd_level([](auto level) -> decltype(auto) { return covariance_kernel(level); });
  if constexpr (sizeof(T) == 4)
    return kernel.float32;
  else
    return kernel.float64;
}

// Blocks of one pair: rows of panels [p0, p1) times columns of panels [q0, q1); above the diagonal only when i == j.
template <class T>
void multiply_range(const Plan<T>& plan, const Kernels<T>& kernel, const Part<T>& part, int k, int64_t p0, int64_t p1,
                    int64_t q0, int64_t q1, int rows, bool add, Prefetch& next) {
  const Pair& pair = plan.problem.pairs[k];
  const T* a = part.packed + plan.first_panel[pair.i] * plan.panel_stride;
  const T* b = part.packed + plan.first_panel[pair.j] * plan.panel_stride;
  const bool symmetric = pair.i == pair.j;
  const int64_t width = panels_of(plan.problem.views[pair.j]);
  const int64_t columns = q1 == width ? plan.problem.views[pair.j].channels - (width - 1) * kPanel : kPanel;
  for (int64_t p = p0; p < p1; ++p) {
    const int64_t q = symmetric ? std::max(p, q0) : q0;
    if (q >= q1) continue;
    const int64_t block = plan.first_block[k] + (symmetric ? p * width - p * (p - 1) / 2 + q - p : p * width + q);
    kernel.multiply(a + p * plan.panel_stride, b + q * plan.panel_stride, plan.panel_stride, rows, plan.chunk,
                    int(q1 - q), symmetric && p == q, columns, part.state + block * kBlock, add,
                    next.at == next.end ? nullptr : &next);
  }
}

template <class T> void add_norms(const Plan<T>& plan, const Kernels<T>& kernel, const Part<T>& part, int rows) {
  for (int v = 0; v < plan.problem.n_views; ++v)
    kernel.norms(part.packed + plan.first_panel[v] * plan.panel_stride, plan.panel_stride,
                 panels_of(plan.problem.views[v]), rows, part.row_norms + v * kTileRows);
  for (int k = 0; k < plan.problem.n_pairs; ++k) {
    const Pair& pair = plan.problem.pairs[k];
    if (!pair.norms) continue;
    const int64_t pi = panels_of(plan.problem.views[pair.i]), pj = panels_of(plan.problem.views[pair.j]);
    const double *ni = part.row_norms + pair.i * kTileRows, *nj = part.row_norms + pair.j * kTileRows;
    double* out = part.norms + plan.first_norm[k];
    for (int r = 0; r < rows; ++r) out[0] += ni[r] * nj[r];
    kernel.weigh(part.packed + plan.first_panel[pair.i] * plan.panel_stride, plan.panel_stride, pi, rows, nj, out + 1);
    kernel.weigh(part.packed + plan.first_panel[pair.j] * plan.panel_stride, plan.panel_stride, pj, rows, ni,
                 out + 1 + pi * kPanel);
  }
}

// Packs panels [first, last) of the tile (panels of all views counted through) and adds up their column sums.
template <class T>
void pack_range(const Plan<T>& plan, const Kernels<T>& kernel, const Part<T>& part, const T* shift, Range panels,
                int64_t begin, int count) {
  for (int v = 0; v < plan.problem.n_views; ++v) {
    const int64_t base = plan.first_panel[v];
    const int64_t first = std::max(panels.begin, base) - base,
                  last = std::min(panels.end, plan.first_panel[v + 1]) - base;
    if (first >= last) continue;
    T* sums = part.tile_sums + base * kPanel;
    kernel.pack(plan.problem.views[v], plan.problem.kept, begin, count, first, last, shift + base * kPanel,
                part.packed + base * plan.panel_stride, plan.panel_stride, sums);
    for (int64_t c = first * kPanel; c < last * kPanel; ++c) part.sums[base * kPanel + c] += double(sums[c]);
  }
}

template <class T> void run_by_rows(const Plan<T>& plan, const Kernels<T>& kernel, const T* shift, char* base) {
#pragma omp parallel num_threads(plan.threads)
  {
    const int t = omp_get_thread_num();
    const Part<T> part(plan, base + t * plan.one_bytes());
    std::memset(part.sums, 0, plan.sum_bytes());
    std::memset(part.norms, 0, plan.norm_bytes());
    Range mine = share((plan.rows + plan.unit - 1) / plan.unit, t, plan.threads);
    mine = {std::min(plan.rows, mine.begin * plan.unit), std::min(plan.rows, mine.end * plan.unit)};
    if (mine.begin == mine.end) std::memset(part.state, 0, plan.state_bytes());
    std::vector<Stretch> stretches;
    for (int64_t r = mine.begin; r < mine.end; r += plan.tile) {
      const int count = int(std::min(plan.tile, mine.end - r));
      pack_range(plan, kernel, part, shift, {0, plan.panels()}, r, count);
      Prefetch next = ahead(plan, kernel, stretches, r + count, std::min(plan.tile, mine.end - r - count), count, 1);
      for (int k = 0; k < plan.problem.n_pairs; ++k) {
        const Pair& pair = plan.problem.pairs[k];
        multiply_range(plan, kernel, part, k, 0, panels_of(plan.problem.views[pair.i]), 0,
                       panels_of(plan.problem.views[pair.j]), count, r > mine.begin, next);
      }
      if (plan.with_norms) add_norms(plan, kernel, part, count);
    }
  }
}

template <class T> void run_by_blocks(const Plan<T>& plan, const Kernels<T>& kernel, const T* shift, char* base) {
  const Part<T> part(plan, base);
  std::memset(part.sums, 0, plan.sum_bytes());
  std::memset(part.norms, 0, plan.norm_bytes());
  if (!plan.rows) std::memset(part.state, 0, plan.state_bytes());
  const std::vector<Task> tasks = tasks_of(plan);
#pragma omp parallel num_threads(plan.threads)
  {
    const int t = omp_get_thread_num();
    std::vector<Stretch> stretches;
    for (int64_t r = 0; r < plan.rows; r += plan.group * plan.tile) {
      const int64_t end = std::min(plan.rows, r + plan.group * plan.tile);
      const auto for_tiles = [&](auto body) {
        Part<T> tile = part;
        for (int64_t begin = r; begin < end; begin += plan.tile, tile.packed += plan.packed_tile())
          body(tile, begin, int(std::min(plan.tile, end - begin)));
      };
      for_tiles([&](const Part<T>& tile, int64_t begin, int count) {
        pack_range(plan, kernel, tile, shift, share(plan.panels(), t, plan.threads), begin, count);
      });
      const Range coming = share(std::min(plan.group * plan.tile, plan.rows - end), t, plan.threads);
      Prefetch next = ahead(plan, kernel, stretches, end + coming.begin, coming.end - coming.begin, int(end - r),
                            plan.threads);
#pragma omp barrier
      // Whoever takes a block, its sum over the tiles is taken in the order of the tiles.
#pragma omp for schedule(dynamic) nowait
      for (int64_t i = 0; i < int64_t(tasks.size()); ++i)
        for_tiles([&, task = tasks[i]](const Part<T>& tile, int64_t begin, int count) {
          multiply_range(plan, kernel, tile, task.pair, task.p0, task.p1, task.q0, task.q1, count, begin > 0, next);
        });
#pragma omp single
      if (plan.with_norms)
        for_tiles([&](const Part<T>& tile, int64_t, int count) { add_norms(plan, kernel, tile, count); });
      // `single` ends in a barrier: the tiles may be packed anew.
    }
  }
}

// Where the square of a channel lies in a state.
template <class T> int64_t square_of(const Plan<T>& plan, int k, int64_t channel) {
  const int64_t width = panels_of(plan.problem.views[plan.problem.pairs[k].i]), p = channel / kPanel;
  const int64_t block = plan.first_block[k] + p * width - p * (p - 1) / 2;
  return block * kBlock + channel % kPanel * (kPanel + 1);
}

template <class T> Refusal find_non_finite(const Plan<T>& plan, const double* sums, const double* state,
                                           const double* norms) {
  for (int v = 0; v < plan.problem.n_views; ++v)
    for (int64_t c = 0; c < plan.problem.views[v].channels; ++c)
      if (!std::isfinite(sums[plan.first_panel[v] * kPanel + c])) return {Reason::not_finite, v, c};
  // Finite input whose squares overflow.
  for (int k = 0; k < plan.problem.n_pairs; ++k) {
    const Pair& pair = plan.problem.pairs[k];
    if (pair.i != pair.j) continue;
    for (int64_t c = 0; c < plan.problem.views[pair.i].channels; ++c)
      if (!std::isfinite(state[square_of(plan, k, c)])) return {Reason::not_finite, pair.i, c};
    if (pair.norms && !std::isfinite(norms[plan.first_norm[k]])) return {Reason::not_finite, pair.i, 0};
  }
  return {};
}

// The squared distance of the mean from the shift, in variances, from which a state is off centre: the rounding of
// products about the shift is then so many times what it would be about the mean.
constexpr double kFar = 4;

// `square` and `sum` are of all rows, shifted.
bool is_far(double square, double sum, double rows) {
  const double of_mean = sum * sum / rows;
  return of_mean > kFar * (square - of_mean);
}

// What the products of a batch have lost, by its squares and sums: `square(k, c)` of pair k, `sum(v, c)` of view v.
template <class T, class Square, class Sum> Refusal find_lost(const Problem& problem, Square square, Sum sum) {
  // Below the smallest normal number a product is rounded to multiples of 2^-149 (2^-1074): of no account where the mean
  // square is 2^30 times that. Norms are squares of squares.
  for (int k = 0; k < problem.n_pairs; ++k) {
    const Pair& pair = problem.pairs[k];
    if (pair.i != pair.j) continue;
    const View& view = problem.views[pair.i];
    const double rows = double(problem.rows()), least = sizeof(T) == 4 ? 0x1p-119 : pair.norms ? 0x1p-500 : 0x1p-1040;
    for (int64_t c = 0; c < view.channels; ++c) {
      const double added = square(k, c), of_batch = sum(pair.i, c);
      if (added == 0 && of_batch == 0) continue;
      const double total = added + pair.gram[c * (view.channels + 1)];
      if (total < least * rows) return {Reason::underflow, pair.i, c};
      if (sizeof(T) == 4 && view.sum && is_far(total, of_batch + view.sum[c], rows + double(view.count)))
        return {Reason::off_centre, pair.i, c};
    }
  }
  return {};
}

// Adds one pair's blocks to its gram; of a symmetric one, the upper triangle.
template <class T> void add_blocks(const Plan<T>& plan, int k, const double* state) {
  const Pair& pair = plan.problem.pairs[k];
  const int64_t rows = plan.problem.views[pair.i].channels, cols = plan.problem.views[pair.j].channels;
  const int64_t height = panels_of(plan.problem.views[pair.i]), width = panels_of(plan.problem.views[pair.j]);
  const bool symmetric = pair.i == pair.j;
#pragma omp parallel for num_threads(plan.threads) schedule(static) if (height * width > 256)
  for (int64_t p = 0; p < height; ++p)
    for (int64_t q = symmetric ? p : 0; q < width; ++q) {
      const int64_t block = plan.first_block[k] + (symmetric ? p * width - p * (p - 1) / 2 + q - p : p * width + q);
      for (int64_t m = 0; m < std::min<int64_t>(kPanel, rows - p * kPanel); ++m) {
        const double* from = state + block * kBlock + m * kPanel;
        double* to = pair.gram + (p * kPanel + m) * cols + q * kPanel;
        const int64_t n = std::min<int64_t>(kPanel, cols - q * kPanel);
        for (int64_t c = symmetric && p == q ? m : 0; c < n; ++c) to[c] += from[c];
      }
    }
}

template <class T> Refusal run_with(const Kernels<T>& kernel, const Problem& problem, int threads, bool any_range,
                                    char* workspace) {
  const Plan<T> plan(problem, threads, kernel.size);
  T* shift = reinterpret_cast<T*>(workspace);
  std::memset(shift, 0, plan.shift_bytes());
  for (int v = 0; v < problem.n_views; ++v)
    for (int64_t c = 0; c < problem.views[v].channels; ++c)
      shift[plan.first_panel[v] * kPanel + c] = T(problem.views[v].shift[c]);
  char* base = workspace + plan.shift_bytes();
  if (plan.by_rows)
    run_by_rows(plan, kernel, shift, base);
  else
    run_by_blocks(plan, kernel, shift, base);

  const Part<T> total(plan, base);
  for (int t = 1; t < plan.states(); ++t) {
    const Part<T> part(plan, base + t * plan.one_bytes());
    for (int64_t c = 0; c < plan.panels() * kPanel; ++c) total.sums[c] += part.sums[c];
    for (int64_t c = 0; c < plan.first_norm.back(); ++c) total.norms[c] += part.norms[c];
    for (int64_t c = 0; c < plan.first_block.back() * kBlock; ++c) total.state[c] += part.state[c];
  }
  if (const Refusal bad = find_non_finite(plan, total.sums, total.state, total.norms)) return bad;
  const auto square = [&](int k, int64_t c) { return total.state[square_of(plan, k, c)]; };
  const auto sum = [&](int v, int64_t c) { return total.sums[plan.first_panel[v] * kPanel + c]; };
  if (const Refusal lost = any_range ? Refusal{} : find_lost<T>(problem, square, sum)) return lost;

  for (int v = 0; v < problem.n_views; ++v)
    for (int64_t c = 0; c < problem.views[v].channels; ++c)
      if (problem.views[v].sum) problem.views[v].sum[c] += total.sums[plan.first_panel[v] * kPanel + c];
  for (int k = 0; k < problem.n_pairs; ++k) {
    add_blocks(plan, k, total.state);
    const Pair& pair = problem.pairs[k];
    if (!pair.norms) continue;
    const int64_t ci = problem.views[pair.i].channels, cj = problem.views[pair.j].channels;
    const double* from = total.norms + plan.first_norm[k];
    pair.norms[0] += from[0];
    for (int64_t c = 0; c < ci; ++c) pair.norms[1 + c] += from[1 + c];
    for (int64_t c = 0; c < cj; ++c) pair.norms[1 + ci + c] += from[1 + panels_of(problem.views[pair.i]) * kPanel + c];
  }
  return {};
}

struct Workspace {
  char* data;
  size_t bytes;
};

// What tiles cannot promise, they refuse: then the vectors add it, or say why they do not. Where another thread has
// chosen tiles since the workspace was made, it has no room for them.
template <class T> Refusal run_plain(const Problem& problem, int threads, bool any_range, Workspace workspace) {
  if constexpr (std::is_same_v<T, float>)
    if (const auto tiles = kernel_on_tiles(problem);
        tiles && Plan<T>(problem, threads, tiles->size).bytes() <= workspace.bytes) {
      const Refusal refusal = run_with<T>(*tiles, problem, threads, any_range, workspace.data);
      if (!refusal || refusal.reason == Reason::off_centre) return refusal;
    }
  return run_with<T>(chosen_kernel<T>(), problem, threads, any_range, workspace.data);
}

template <class T> Refusal run(const Problem& problem, int threads, bool any_range, Workspace workspace) {
  if (SingleChannels<T>::fit(problem)) {
    const SingleChannels<T> found(problem, chosen_kernel<T>(), threads);
    if (!found.finite()) return run_plain<T>(problem, threads, any_range, workspace);
    const auto square = [&](int k, int64_t) { return found.product(k); };
    const auto sum = [&](int v, int64_t) { return found.sum(v); };
    const Refusal lost = any_range ? Refusal{} : find_lost<T>(problem, square, sum);
    if (!lost) found.add();
    return lost;
  }
  const int fold = fold_of(problem);
  if (fold == 1) return run_plain<T>(problem, threads, any_range, workspace);
  const RowFolding folding(problem, fold);
  // Where a value is not finite, the rows as they are tell the first channel that holds one.
  if (run_plain<T>(folding.groups(), threads, true, workspace))
    return run_plain<T>(problem, threads, any_range, workspace);
  const auto square = [&](int k, int64_t c) { return folding.square(k, c); };
  const auto sum = [&](int v, int64_t c) { return folding.sum(v, c); };
  if (const Refusal lost = any_range ? Refusal{} : find_lost<T>(problem, square, sum)) return lost;
  const Refusal bad = run_plain<T>(folding.rest(), threads, true, workspace);
  if (!bad) folding.add_groups();
  return bad;
}

}  // namespace

// Enough for the rows folded, too: they are fewer, and in as many panels.
size_t workspace_bytes(const Problem& problem, int threads) {
  const auto tiles = kernel_on_tiles(problem);
  return tiles ? Plan<float>(problem, threads, tiles->size).bytes() : least_workspace_bytes(problem, threads);
}

size_t least_workspace_bytes(const Problem& problem, int threads) {
  return problem.float64 ? Plan<double>(problem, threads).bytes() : Plan<float>(problem, threads).bytes();
}

Refusal update(const Problem& problem, int threads, bool any_range, void* workspace, size_t bytes) {
  const Workspace room{static_cast<char*>(workspace), bytes};
  return problem.float64 ? run<double>(problem, threads, any_range, room)
                         : run<float>(problem, threads, any_range, room);
}

bool off_centre(const Problem& problem, int view) {
  const View& v = problem.views[view];
  for (int k = 0; v.sum && k < problem.n_pairs; ++k)
    for (int64_t c = 0; problem.pairs[k].i == view && problem.pairs[k].j == view && c < v.channels; ++c)
      if (is_far(problem.pairs[k].gram[c * (v.channels + 1)], v.sum[c], double(v.count) + double(problem.rows())))
        return true;
  return false;
}

}  // namespace prunecca::cpu
