// The covariance kernels: tiles of products per piece of the rows, then their sums in a fixed order.
#include "cuda/covariance.cuh"

#include "cuda/covariance_product.cuh"

namespace prunecca::cuda {
namespace {

constexpr int kTileExtra = 64;  // a partial tile ends with the sums of its first panel's channels
__host__ __device__ constexpr int64_t tile_size(int panel) { return int64_t(panel) * panel + kTileExtra; }

// What a warp computes of a tile: channels a.. of its first panel and b.. of its second, of some rows of each stage.
struct Part {
  int a, b, first_row, rows, to;  // to: where the tile keeps it
  bool same;                      // a part on the diagonal
};

// A panel of 16 or 32 has one part, whose rows the warps share; a tile of two panels of 64 has four parts. Of a tile on
// the diagonal, three are needed: the two on it cost about half of the third, whose rows two warps share. The second of
// these keeps its sums where the part below the diagonal would be, for add_pieces to find.
template <class S> __device__ __forceinline__ Part part_of(bool one_panel, int role) {
  if (S::kPanel == S::kPart) return {0, 0, role * S::kWarpRows, S::kWarpRows, 0, true};
  if (!one_panel) {
    const int a = role / 2 * 32, b = role % 2 * 32;
    return {a, b, 0, S::kWarpRows, a * S::kPanel + b, false};
  }
  if (role < 2) return {32 * role, 32 * role, 0, S::kWarpRows, 32 * role * (S::kPanel + 1), true};
  const int half = S::kWarpRows / 2;
  return {0, 32, (role - 2) * half, half, role == 2 ? 32 : 32 * S::kPanel, false};
}

// Block (tile, split): the products of two panels over one piece of the rows, to partial[split][tile].
// Tiles run fastest, so that blocks which read the same rows run together and find them in L2.
template <class S>
__global__ void __launch_bounds__(kThreads, 2) products(const __grid_constant__ Plan plan, double* partial) {
  auto* stages = dynamic_shared<typename S::T>();
  auto& info = static_shared<BlockInfo<S>>();
  const int pa = plan.tiles[blockIdx.x] >> 8, pb = plan.tiles[blockIdx.x] & 255;
  const bool one_panel = pa == pb;
  describe_panel<S>(plan, pa, info.panel[0]);
  if (!one_panel) describe_panel<S>(plan, pb, info.panel[1]);
  zero_stages<S>(stages);
  __syncthreads();

  const unsigned begin = blockIdx.y * plan.rows_per_split, end = min(plan.rows, begin + plan.rows_per_split);
  const int n_stages = int((end - begin + S::kRows - 1) / S::kRows);
  const Strides strides_a(plan, pa * S::kPanel), strides_b(plan, pb * S::kPanel);
  auto start = [&](int stage) {
    if (stage < n_stages) {
      auto* to = stages + stage % S::kStages * S::kPanels * S::kPanelSize;
      const unsigned row = begin + stage * S::kRows;
      stage_panel<S>(plan, info.panel[0], strides_a, row, end, to);
      if (S::kPanels == 2 && !one_panel) stage_panel<S>(plan, info.panel[1], strides_b, row, end, to + S::kPanelSize);
    }
    commit_copies();  // an empty group too, so that the count of groups is the count of stages
  };
  for (int s = 0; s < S::kStages - 1; ++s) start(s);

  // Which warp (so which quarter of the SM) does what changes from block to block. From lane 0, so that the compiler
  // knows that a warp's branches are the same for all lanes.
  const int warp = __shfl_sync(~0u, int(threadIdx.x) / 32, 0);
  const Part part = part_of<S>(one_panel, S::kPanel == S::kPart ? warp : (warp + int(blockIdx.y)) % 4);
  WarpTile<S, typename S::P> tile;
  tile.begin(info.panel[0].shift + part.a, info.panel[one_panel ? 0 : 1].shift + part.b, info.sums[warp]);
  for (int s = 0; s < n_stages; ++s) {
    wait_copies<S::kStages - 2>();
    __syncthreads();  // everyone's copies of stage s have landed, and stage s - 1 has been read by all
    start(s + S::kStages - 1);
    const auto* from = stages + s % S::kStages * S::kPanels * S::kPanelSize + part.first_row * S::kRowStep;
    const auto* a = from + part.a * S::kChannelStep;
    const auto* b = from + (one_panel ? 0 : S::kPanelSize) + part.b * S::kChannelStep;
    const int valid = int(end - begin) - s * S::kRows - part.first_row;
    const bool whole = valid >= part.rows;
    if (S::kPanel == S::kPart || part.same)
      whole ? tile.template stage<false, true>(a, b, part.rows, valid)
            : tile.template stage<true, true>(a, b, part.rows, valid);
    else
      whole ? tile.template stage<false, false>(a, b, part.rows, valid)
            : tile.template stage<true, false>(a, b, part.rows, valid);
    if (s % tile.kFlush == tile.kFlush - 1) tile.flush();
  }
  tile.flush();
  constexpr int kTile = S::kPanel * S::kPanel;
  double* out = partial + (int64_t(blockIdx.y) * plan.n_tiles + blockIdx.x) * tile_size(S::kPanel);
  if constexpr (S::kPanel == S::kPart) {  // the same part of other rows: one after the other, in the order of the warps
    constexpr int kSize = kTile + S::kPanel;
    static_assert(kThreads / 32 * kSize * sizeof(double) <= S::kSharedBytes);
    auto* tiles = reinterpret_cast<double*>(stages);
    wait_copies<0>();
    __syncthreads();  // no stage is read any more
    tile.store(tiles + warp * kSize, S::kPanel, tiles + warp * kSize + kTile);
    __syncthreads();
    for (int e = int(threadIdx.x); e < kSize; e += kThreads) {
      double sum = tiles[e];
      for (int w = 1; w < kThreads / 32; ++w) sum += tiles[w * kSize + e];
      out[e] = sum;
    }
  } else {
    tile.store(out + part.to, S::kPanel, part.same ? out + kTile + part.a : nullptr);
  }
}

struct Targets {  // where sums and grams of the state are
  double* sums[kMostViews];
  double* grams[kMostViews][kMostViews];
  unsigned long long* nonfinite;
  int64_t batch;
};

static_assert(sizeof(Plan) + sizeof(Targets) + 32 <= 4096, "kernel parameters beyond 4 KiB need newer drivers");

constexpr int kEntries = 32, kGroups = 8;  // entries per block; threads that share an entry's pieces

// Adds the pieces of each entry in a fixed order: kGroups interleaved sums, then those one after another.
__global__ void __launch_bounds__(kEntries* kGroups)
    add_pieces(const __grid_constant__ Plan plan, const __grid_constant__ Targets targets, const double* partial,
               int panel, int64_t pieces) {
  struct Storage {
    double sum[kGroups][kEntries];
  };
  auto& storage = static_shared<Storage>();
  const int lane = int(threadIdx.x) % kEntries, group = int(threadIdx.x) / kEntries;
  const int entry = int(blockIdx.x) * kEntries + lane, tile = int(blockIdx.y);
  const int pa = plan.tiles[tile] >> 8, pb = plan.tiles[tile] & 255;
  const bool is_sum = entry >= panel * panel;
  const int row = pa * panel + (is_sum ? entry - panel * panel : entry / panel);
  const int column = is_sum ? row : pb * panel + entry % panel;
  double* to = nullptr;
  double* mirror = nullptr;
  int i = -1;
  if (row <= column && (!is_sum || (pa == pb && entry < panel * panel + panel))) {
    i = plan.view_of(row);
    const int j = plan.view_of(column);
    if (i >= 0 && j >= 0) {
      const Source &a = plan.views[i], &b = plan.views[j];
      const int64_t r = row - a.first, c = column - b.first;
      if (is_sum) {
        if (targets.sums[i]) to = targets.sums[i] + r;
      } else if (double* gram = targets.grams[i][j]) {
        to = gram + r * b.channels + c;
        if (i == j && r != c) mirror = gram + c * b.channels + r;
      }
    }
  }
  double sum = 0;
  if (to) {
    const double* p = partial + tile * tile_size(panel) + entry;
    // The part above the diagonal of a panel of 64 lies in two places, each the sums of half the rows.
    const bool halved = panel == 64 && pa == pb && !is_sum && entry / 64 < 32 && entry % 64 >= 32;
    const int other = halved ? 32 * 64 - 32 : 0;
#pragma unroll 4
    for (int64_t piece = group; piece < pieces; piece += kGroups) {
      const double* q = p + piece * plan.n_tiles * tile_size(panel);
      sum += halved ? q[0] + q[other] : q[0];
    }
  }
  storage.sum[group][lane] = sum;
  __syncthreads();
  if (group || !to) return;
  for (int g = 1; g < kGroups; ++g) sum += storage.sum[g][lane];
  if (!isfinite(sum)) {
    // A channel's own sum names it; an entry that two channels share only says that one of them is at fault.
    const unsigned long long batch = targets.batch, unsure = row != column, view = i,
                             channel = row - plan.views[i].first;
    atomicMin(targets.nonfinite, batch << 40 | unsure << 39 | view << 32 | channel);
  }
  *to += sum;
  if (mirror) *mirror = *to;
}

template <class S> cudaError_t start(const Plan& plan, double* partial, cudaStream_t stream) {
  return launch({dim3(unsigned(plan.n_tiles), unsigned(plan.splits)), dim3(kThreads), S::kSharedBytes, stream},
                products<S>, plan, partial);
}
template <class T, class P> cudaError_t start(const Layout& layout, double* partial, cudaStream_t stream) {
  if (layout.panel == 16)
    return layout.row_major ? start<Shape<T, P, true, 16>>(layout.plan, partial, stream)
                            : start<Shape<T, P, false, 16>>(layout.plan, partial, stream);
  if (layout.panel == 32)
    return layout.row_major ? start<Shape<T, P, true, 32>>(layout.plan, partial, stream)
                            : start<Shape<T, P, false, 32>>(layout.plan, partial, stream);
  return layout.row_major ? start<Shape<T, P, true, 64>>(layout.plan, partial, stream)
                          : start<Shape<T, P, false, 64>>(layout.plan, partial, stream);
}
cudaError_t start(const Layout& layout, Dtype dtype, double* partial, cudaStream_t stream) {
  switch (dtype) {
    case Dtype::float32:
      return layout.float64 ? start<float, double>(layout, partial, stream)
                            : start<float, float>(layout, partial, stream);
    case Dtype::float64: return start<double, double>(layout, partial, stream);
    case Dtype::float16:
      return layout.float64 ? start<Half, double>(layout, partial, stream)
                            : start<Half, float>(layout, partial, stream);
    case Dtype::bfloat16:
      return layout.float64 ? start<Bfloat, double>(layout, partial, stream)
                            : start<Bfloat, float>(layout, partial, stream);
    default: return cudaErrorInvalidValue;
  }
}

int rows_in_stage(const Layout& layout, Dtype dtype) {
  return int(128 / size_of(dtype)) * (layout.panel <= 32 ? 4 : 1);
}

// The tiles in which a wanted pair meets, kMostTiles at a time: calls back with the plan of each launch.
template <class Act> void for_each_launch(const Problem& problem, Layout& layout, Act act) {
  Plan& plan = layout.plan;
  int total = 0;
  for (int a = 0; a < layout.n_panels; ++a)
    for (int b = a; b < layout.n_panels; ++b) total += wanted(layout, problem, a, b);
  if (!total) return;
  cut_rows(plan, std::min(total, kMostTiles), rows_in_stage(layout, problem.views[0].dtype));
  plan.n_tiles = 0;
  for (int a = 0; a < layout.n_panels; ++a)
    for (int b = a; b < layout.n_panels; ++b) {
      if (!wanted(layout, problem, a, b)) continue;
      plan.tiles[plan.n_tiles++] = uint16_t(a << 8 | b);
      if (plan.n_tiles == kMostTiles) act(), plan.n_tiles = 0;
    }
  if (plan.n_tiles) act();
}

// Doubles that the norms need: one per row and view, then scratch. Zero when no pair asks for norms.
int64_t norms_doubles(const Problem& problem) {
  int64_t scratch = 0;
  for (int p = 0; p < problem.n_pairs; ++p)
    if (problem.pairs[p].norms)
      scratch = std::max({scratch, norms_scratch(problem.views[problem.pairs[p].i]),
                          norms_scratch(problem.views[problem.pairs[p].j])});
  return scratch ? scratch + problem.n_views * problem.views[0].rows() : 0;
}

cudaError_t add_norms(const Problem& problem, double* workspace, cudaStream_t stream) {
  const int64_t rows = problem.views[0].rows();
  double* scratch = workspace + problem.n_views * rows;
  cudaError_t error = cudaSuccess;
  auto then = [&](auto step) {
    if (error == cudaSuccess) error = step();
  };
  for (int v = 0; v < problem.n_views; ++v)
    then([&] { return squared_norms(problem.views[v], workspace + v * rows, stream); });
  for (int p = 0; p < problem.n_pairs; ++p) {
    const Pair& pair = problem.pairs[p];
    if (!pair.norms) continue;
    const View &x = problem.views[pair.i], &y = problem.views[pair.j];
    const double *nx = workspace + pair.i * rows, *ny = workspace + pair.j * rows;
    double *to_x = pair.norms + 1, *to_y = to_x + x.channels;
    then([&] { return inner_product(nx, ny, rows, scratch, pair.norms, stream); });
    then([&] { return weigh(x, ny, scratch, to_x, pair.i == pair.j ? to_y : nullptr, stream); });
    if (pair.i != pair.j) then([&] { return weigh(y, nx, scratch, to_y, nullptr, stream); });
  }
  return error;
}

}  // namespace

size_t workspace_bytes(const Problem& problem) {
  Layout layout = lay_out(problem);
  if (!layout.valid) return 0;
  int64_t doubles = norms_doubles(problem);
  for_each_launch(problem, layout, [&] {
    doubles = std::max(doubles, int64_t(layout.plan.splits) * layout.plan.n_tiles * tile_size(layout.panel));
  });
  return size_t(doubles) * sizeof(double);
}

cudaError_t update(const Problem& problem, const NonFiniteNote& note, void* workspace, cudaStream_t stream) {
  Layout layout = lay_out(problem);
  if (!layout.valid) return cudaErrorInvalidValue;
  Targets targets{};
  targets.nonfinite = note.least, targets.batch = note.batch;
  for (int v = 0; v < problem.n_views; ++v) targets.sums[v] = problem.views[v].sum;
  for (int p = 0; p < problem.n_pairs; ++p) {
    const Pair& pair = problem.pairs[p];
    if (pair.i > pair.j) return cudaErrorInvalidValue;
    targets.grams[pair.i][pair.j] = pair.gram;
  }
  auto* doubles = static_cast<double*>(workspace);
  cudaError_t error = cudaSuccess;
  for_each_launch(problem, layout, [&] {
    if (error == cudaSuccess) error = start(layout, problem.views[0].dtype, doubles, stream);
    if (error != cudaSuccess) return;
    const dim3 grid(unsigned((tile_size(layout.panel) + kEntries - 1) / kEntries), unsigned(layout.plan.n_tiles));
    error = launch({grid, dim3(kEntries * kGroups), 0, stream}, add_pieces, layout.plan, targets, doubles, layout.panel,
                   int64_t(layout.plan.splits));
  });
  // The partial tiles have been read by then: the norms take the same memory.
  return error == cudaSuccess && norms_doubles(problem) ? add_norms(problem, doubles, stream) : error;
}

}  // namespace prunecca::cuda
